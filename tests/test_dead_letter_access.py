"""Access to dead letters over HTTP: each tenant reaches its own only, within bounds, and errors say what to change."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from runtime.errors import Fatal
from runtime.http.key_store import KeyStore
from schemas.letter import Letter
from schemas.wire import encode_headers
from tally.dead_letters import letter_store, service
from tally.dead_letters.service import DeadLetterService
from tests.dead_letter_lab import BAD, DEFAULT, FIX, LETTERS, asked, put_bad, replayed
from tests.http_lab import api_of, assert_error, with_key
from tests.lab import Lab, as_json
from tests.waiting import eventually_async


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings, clock_skew_ms=60_000), "reader") as client:
        yield client


async def test_a_tenant_reaches_only_its_own_letters(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD, namespace="theirs")
    await lab.put(b"no json", headers=encode_headers("theirs"))
    await lab.drain()
    unread = f"{LETTERS}/{partition}/{offset}"
    assert (await asked(api, ""))["letters"] == []
    assert (await asked(api, "/groups"))["total"] == 0
    assert_error(await api.get(unread), 404, "NotFoundError")
    assert_error(await api.post(f"{unread}/check", json={}), 404, "NotFoundError")
    assert (await replayed(api, origins=[f"{partition}/{offset}"], patch=FIX, dry_run=False))["letters"] == 0
    for path in (f"{unread}/check", f"{LETTERS}/replay"):
        answer = await api.post(path, json={"as_namespace": "theirs"})
        assert_error(answer, 403, "ForbiddenError")
    async with api_of(with_key(lab.settings, api_namespaces=("theirs",)), "reader") as theirs:
        assert (await theirs.post(f"{unread}/check", json={"patch": FIX})).json()["valid"] is True
    assert_error(await api.post(f"{unread}/check", json={}), 404, "NotFoundError")


async def test_a_kept_letter_is_shown_to_its_namespace_only(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD, namespace="shop")
    path = f"{LETTERS}/{partition}/{offset}/check"
    assert (await api.post(path, json={}, headers={"X-Namespace": "shop"})).status_code == 200
    assert_error(await api.post(path, json={}), 404, "NotFoundError")


async def test_letters_of_nobody_need_the_admin_and_a_namespace(lab: Lab, api: httpx.AsyncClient) -> None:
    place = await lab.put(b'[{"feature_id": "d"}]', headers=DEFAULT)
    unnamed = await lab.put(as_json("doc-2", "exec-2"), headers=[("tally-namespace", b"\xff")])
    await lab.drain()
    assert (await asked(api, "/groups"))["total"] == 0
    assert {each["offset"] for each in (await asked(api, "", unattributed=True))["letters"]} >= {place.offset}
    path = f"/{unnamed.partition}/{unnamed.offset}"
    shown = await asked(api, path, unattributed=True)
    assert (shown["reason"], shown["problems"]) == ("bad_header", [])
    refused = await api.post(f"{LETTERS}/replay", json={"unattributed": True})
    assert_error(refused, 422, "ValidationError")
    done = await replayed(api, unattributed=True, as_namespace="shop", dry_run=False)
    assert (done["letters"], done["replayed"], done["why"]) == (2, 1, {"not_an_object ": 1})
    await lab.drain()
    assert await lab.rows("SELECT namespace FROM interactions") == [("shop",)]
    statuses = [each["replay_status"] for each in (await asked(api, "", unattributed=True))["letters"]]
    assert sorted(map(str, statuses)) == ["None", "stored"]


async def test_scopes_are_required(lab: Lab, api: httpx.AsyncClient) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    store = KeyStore(lab.database)
    _, key = await store.create("a reader's", ("read",), ("default",))
    reader = {"Authorization": f"Bearer {key}"}

    async def counts() -> bool:
        return (await api.get(LETTERS, headers=reader)).status_code == 200

    await eventually_async(counts)
    assert (await api.post(f"{LETTERS}/replay", json={"patch": FIX}, headers=reader)).json()["would_pass"] == 1
    real = await api.post(f"{LETTERS}/replay", json={"patch": FIX, "dry_run": False}, headers=reader)
    assert_error(real, 403, "ForbiddenError")
    for path in ("", "/groups", f"/{partition}/{offset}"):
        answer = await api.get(f"{LETTERS}{path}", params={"unattributed": True}, headers=reader)
        assert_error(answer, 403, "ForbiddenError")
        answer = await api.get(f"{LETTERS}{path}", headers={"Authorization": ""})
        assert_error(answer, 401, "UnauthorizedError")
    answer = await api.post(f"{LETTERS}/replay", json={"unattributed": True, "as_namespace": "default"}, headers=reader)
    assert_error(answer, 403, "ForbiddenError")


async def test_an_invalid_request_is_refused(api: httpx.AsyncClient) -> None:
    for query in (
        {"reason": "x"},
        {"replayed": "maybe"},
        {"cursor": "x"},
        {"limit": 0},
        {"since": "yesterday"},
        {"a": 1},
    ):
        assert_error(await api.get(LETTERS, params=query), 422, "ValidationError")
    for path in ("/a/1", f"/{2**31}/1", f"/1/{2**63}"):
        assert_error(await api.get(f"{LETTERS}{path}"), 422, "ValidationError")
    bodies: list[dict[str, Any]] = [
        *({"origins": ["1"]}, {"origins": [f"{2**31}/1"]}, {"origins": []}),
        *({"cursor": "1/2"}, {"dryrun": True}),
    ]
    for body in bodies:
        assert_error(await api.post(f"{LETTERS}/replay", json=body), 422, "ValidationError")


async def test_without_kafka_the_setting_is_named(lab: Lab) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    async with api_of(with_key(lab.settings, kafka=""), "reader") as api:
        assert len((await asked(api, ""))["letters"]) == 1
        for answer in (
            await api.get(f"{LETTERS}/{partition}/{offset}"),
            await api.post(f"{LETTERS}/{partition}/{offset}/check", json={}),
            await api.post(f"{LETTERS}/replay", json={}),
        ):
            assert "TALLY_KAFKA" in assert_error(answer, 503, "ServiceUnavailableError")["message"]


async def test_reads_and_replays_are_bounded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)
    async with api_of(with_key(lab.settings, letter_reads_in_flight=0), "reader") as api:
        for answer in (await api.get(f"{LETTERS}/{partition}/{offset}"), await api.post(f"{LETTERS}/replay", json={})):
            message = assert_error(answer, 503, "ServiceUnavailableError")["message"]
            assert "TALLY_LETTER_READS_IN_FLIGHT" in message
    async with api_of(with_key(lab.settings), "reader") as api:
        waiting = DeadLetterService._replay

        async def meanwhile(service: Any, owner: Any, request: Any) -> Any:
            answer = await api.post(f"{LETTERS}/replay", json={"dry_run": False})
            assert "a replay runs" in assert_error(answer, 503, "ServiceUnavailableError")["message"]
            return await waiting(service, owner, request)

        monkeypatch.setattr(DeadLetterService, "_replay", meanwhile)
        assert (await replayed(api, patch=FIX, dry_run=False))["replayed"] == 1


@pytest.mark.parametrize(
    ("error", "words"), [(TimeoutError(), "TALLY_LIST_TIMEOUT_MS"), (Fatal("refused by Kafka"), "deploy/access")]
)
async def test_reads_that_fail_are_explained(
    lab: Lab, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    ((partition, offset),) = await put_bad(lab, BAD)

    async def failing(*_anything: Any) -> AsyncIterator[Letter]:
        for letter in list[Letter]():
            yield letter
        raise error

    for module in (letter_store, service):
        monkeypatch.setattr(module, "read_letters", failing)
    for answer in (await api.get(f"{LETTERS}/{partition}/{offset}"), await api.post(f"{LETTERS}/replay", json={})):
        assert words in assert_error(answer, 503, "ServiceUnavailableError")["message"]
