"""Dry run: the verdict of create without an event, derived values as the worker's, and warnings about tracking."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings

from producers.collector.dry_run import DryRunContext, validation_of
from schemas.dedup import dedup_key
from schemas.interaction import NO_FEATURE_URI
from schemas.validator import validate
from schemas.wire import ValidEvent
from tests.http_lab import EVENT, PATH, api_of, assert_error, with_key
from tests.lab import Lab, as_json, reading
from tests.test_scanner import values

VALIDATE = f"{PATH}/validate"
TRACKED: dict[str, Any] = EVENT | {
    "retriever_id": "r",
    "query_snapshot": {"text": "red shoes"},
    "feature_uri": "tally://text@v1/embedding",
    "result_set_size": 10,
}
"""Event without a warning."""


async def verdicts(api: httpx.AsyncClient, body: Any, **more: Any) -> list[dict[str, Any]]:
    """Return the verdicts about the events of a body, which is JSON text or a value."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await api.post(VALIDATE, content=content, **more)
    assert answer.status_code == 200, answer.text
    report = answer.json()
    results: list[dict[str, Any]] = report["results"]
    assert [each["index"] for each in results] == list(range(len(results)))
    assert (report["valid"], report["invalid"]) == (
        sum(each["valid"] for each in results),
        sum(not each["valid"] for each in results),
    )
    return results


@settings(max_examples=50)
@given(values())
@example(b"")
@example(b"[]")
@example(b"null")
@example(b"\xff")
@example(b"{")
@example(b'{"a":' * 5_000)
@example(json.dumps({f"k{n}": 1 for n in range(99)}).encode())
@example(json.dumps(EVENT | {"interaction_type": ["x"] * 30}).encode())
async def test_the_verdict_is_that_of_create(shared_api: httpx.AsyncClient, value: bytes) -> None:
    """Law, for arbitrary values: the same message and errors as create, or none."""
    created = await shared_api.post(PATH, content=value)
    (verdict,) = await verdicts(shared_api, value)
    assert verdict["valid"] == (created.status_code == 200), created.text
    if verdict["valid"]:
        assert (verdict["message"], verdict["validation_errors"]) == (None, [])
        assert created.json()["warning"] in (None, *(each["message"] for each in verdict["warnings"]))
        assert verdict["derived"]["event_time_clamped"] == (
            created.json()["occurred_at"] == created.json()["timestamp"]
        )
    else:
        error = created.json()["error"]
        assert verdict["message"] == error["message"]
        assert verdict["validation_errors"] == error["details"]["validation_errors"]
        assert verdict["derived"] is None


async def test_the_derived_values_are_those_of_the_accepted_event(lab: Lab) -> None:
    """The partition is that of the record, the key that of the worker; nothing was put on the topic before."""
    keyless = {name: value for name, value in EVENT.items() if name != "execution_id"}
    repeated = EVENT | {"interaction_type": ["view", "click", "view"]}
    items = [EVENT, repeated, {}, *(keyless | {"feature_id": f"doc-{n}"} for n in range(10))]
    async with api_of(with_key(lab.settings, api_namespaces=("münchen",))) as api:
        body, headers = {"interactions": items}, {"Idempotency-Key": "cart"}
        before = await lab.log_ends()
        found = await verdicts(api, body, headers=headers)
        assert await lab.log_ends() == before, "nothing is put on the topic"
        created = (await api.post(f"{PATH}/batch", json=body, headers=headers)).json()["results"]
    async with reading(lab.settings, lab.settings.topic) as records:
        partitions = {json.loads(record.value or b"")["interaction_id"]: record.partition for record in records}
    for verdict, result in zip(found, created, strict=True):
        assert verdict["valid"] == (result["status"] == "created")
        if verdict["valid"]:
            derived = verdict["derived"]
            assert derived["namespace"] == "münchen"
            assert derived["partition"] == partitions[result["interaction_id"]]
    plans = [each["derived"]["deduplication"] for each in found if each["valid"]]
    assert [each["rule"] for each in plans] == ["execution"] * 2 + ["idempotency_key"] * 10
    assert [each["idempotency_key"] for each in plans] == [None, None, *(f"cart#{n}" for n in range(3, 13))]
    assert plans[1]["interaction_type"] == ["click", "view"]
    key = dedup_key("münchen", "e", "doc-1", ["click", "view"])
    assert plans[1]["key"] == (key or b"").hex()


async def test_an_event_without_a_key_is_never_a_duplicate(shared_api: httpx.AsyncClient) -> None:
    keyless = {name: value for name, value in EVENT.items() if name != "execution_id"}
    for body, query, rule in (
        (keyless, "", "none"),
        (EVENT, "?deduplicate=false", "execution"),  # create has no such parameter
        ({"interactions": [EVENT]}, "?deduplicate=false", "none"),
    ):
        answer = await shared_api.post(f"{VALIDATE}{query}", json=body)
        plan = answer.json()["results"][0]["derived"]["deduplication"]
        assert (plan["rule"], plan["key"] is None) == (rule, rule == "none")


@pytest.mark.parametrize(
    ("occurred_at", "event_time", "is_clamped"),
    [
        (None, None, False),
        ("2026-01-02T03:04:05.6789+02:00", "2026-01-02T01:04:05.678Z", False),
        ("2199-01-01T00:00:00Z", "20", True),
    ],
)
async def test_the_event_time_is_shown_as_the_record_shows_it(
    shared_api: httpx.AsyncClient, occurred_at: str | None, event_time: str | None, is_clamped: bool
) -> None:
    (verdict,) = await verdicts(shared_api, TRACKED | {"occurred_at": occurred_at})
    derived = verdict["derived"]
    assert (derived["event_time_clamped"], derived["backfill"]) == (is_clamped, occurred_at is not None)
    assert derived["event_time"] == event_time or derived["event_time"].startswith(event_time)
    assert "2199" not in str(derived["event_time"])
    assert [each["code"] for each in verdict["warnings"]] == ["future_event_time"] * is_clamped


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"feature_uri": None}, "no_feature_uri"),
        ({"execution_id": None}, "no_execution_id"),
        ({"execution_id": ""}, "no_execution_id"),
        ({"retriever_id": None}, "no_retriever_id"),
        ({"query_snapshot": None}, "no_query_text"),
        ({"query_snapshot": {"top_k": 5}}, "no_query_text"),
        ({"query_snapshot": {"text": " "}}, "no_query_text"),
        ({"query_snapshot": {"text": {"deep": 1e300}}}, "no_query_text"),
        ({"position": 10}, "position_outside_results"),
        ({"position": 9}, None),
        ({"result_set_size": None, "position": 99}, None),
        ({"result_set_size": 0, "interaction_type": ["zero_results"]}, None),
    ],
)
async def test_each_flaw_of_tracking_has_its_warning(
    shared_api: httpx.AsyncClient, changes: dict[str, Any], code: str | None
) -> None:
    (verdict,) = await verdicts(shared_api, TRACKED | changes)
    assert verdict["valid"]
    assert [each["code"] for each in verdict["warnings"]] == ([code] if code else [])
    if code == "no_feature_uri":
        assert verdict["warnings"][0]["message"] == NO_FEATURE_URI


async def test_a_dry_run_is_bounded_like_create_and_batch(lab: Lab) -> None:
    bounds = {"http_body_bytes": 2_000, "http_batch_bytes": 9_000, "http_batch_items": 3, "http_event_bytes": 1_024}
    async with api_of(with_key(lab.settings, rate_limit_per_s=100, **bounds)) as api:
        large = EVENT | {"metadata": {"x": "y" * 1_100}}
        for body in (large, {"interactions": [EVENT, large]}):
            assert (await verdicts(api, body))[-1]["validation_errors"][0]["type"] == "too_large"
        assert_error(await api.post(VALIDATE, json=EVENT | {"user_id": "y" * 2_000}), 413, "PayloadTooLargeError")
        assert_error(await api.post(VALIDATE, json={"interactions": [large] * 9}), 413, "PayloadTooLargeError")
        for body in (
            {"interactions": [EVENT] * 4},
            {"interactions": []},
            {"interactions": {}},
            EVENT | {"interactions": []},
        ):
            of_batch = assert_error(await api.post(f"{PATH}/batch", json=body), 422, "ValidationError")
            assert assert_error(await api.post(VALIDATE, json=body), 422, "ValidationError") == of_batch
        assert int((await api.post(VALIDATE, json=EVENT)).headers["x-ratelimit-limit"]) > 0
        assert_error(await api.post(VALIDATE, json=EVENT, headers={"Authorization": ""}), 401, "UnauthorizedError")


@pytest.mark.parametrize(("path", "has_text"), [(("q", "text"), True), (("text",), False), (("q",), False)])
def test_the_text_of_the_query_is_where_the_setting_says(path: tuple[str, ...], has_text: bool) -> None:
    event = validate(as_json(query_snapshot={"q": {"text": "shoes"}}))
    assert isinstance(event, ValidEvent)
    found = validation_of(0, event, DryRunContext("default", None, True, path), 4)
    assert ("no_query_text" not in {warning.code for warning in found.warnings}) == has_text
