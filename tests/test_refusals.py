"""Refused events: what the collector does not accept is counted by namespace, reason and minute."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from producers.collector import refusals
from producers.collector.refusals import RefusalCounter
from runtime.http.best_effort import BestEffortRedis
from runtime.http.key_store import KeyStore
from runtime.http.keys import ROOT, PageToken, hash_of
from runtime.redis import Redis
from runtime.refusals import (
    MAX_GROUPS,
    MAX_SENDERS,
    OTHER,
    AcceptedTotal,
    MinuteCounts,
    NamespaceMinute,
    RefusalGroup,
    RefusalTotal,
    add_counts,
    read_counts,
)
from runtime.settings import Settings
from schemas.rejection import Rejection
from tests.http_lab import EVENT, KEY, PATH, api_of, assert_error, until_keys_are_known, with_key
from tests.lab import Lab
from tests.waiting import eventually_async

REFUSALS = "/v1/refusals"
SHOP = "https://shop.example"
IN_SHOP = {"X-Namespace": "shop"}


@pytest.fixture(autouse=True)
def added_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "ADD_EVERY_S", 0.02)


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(with_key(lab.settings)) as client:
        await until_keys_are_known(client)
        yield client


async def report_of(api: httpx.AsyncClient, accepted: int, refused: int, **options: Any) -> dict[str, Any]:
    """Wait until the counts are these, and return the report."""
    found: dict[str, Any] = {}

    async def is_counted() -> bool:
        answer = await api.get(REFUSALS, **options)
        assert answer.status_code == 200, answer.text
        found.update(answer.json())
        assert found["accepted"] <= accepted
        assert found["refused"] <= refused
        return (found["accepted"], found["refused"]) == (accepted, refused)

    await eventually_async(is_counted)
    return found


def groups_of(report: dict[str, Any]) -> dict[tuple[str, str, str | None], int]:
    return {(each["endpoint"], each["reason"], each["field"]): each["refused"] for each in report["groups"]}


async def test_refused_and_accepted_events_are_counted_by_endpoint_reason_and_field(api: httpx.AsyncClient) -> None:
    wrong, other = EVENT | {"shelf": 1}, EVENT | {"position": "0"}
    token = PageToken.until(ROOT, "default", SHOP, 60).signed(hash_of(KEY))
    page, address = {"Authorization": "", "Origin": SHOP}, f"{PATH}/beacon?token={token}"
    for event in (wrong, wrong, other, EVENT):
        await api.post(PATH, json=event)
    assert (await api.post(f"{PATH}/batch", json={"interactions": [wrong, EVENT, other]})).json()["failed"] == 2
    assert (await api.post(address, content=json.dumps([wrong, other]), headers=page)).status_code == 422
    assert (await api.post(address, content=json.dumps([EVENT, other]), headers=page)).status_code == 200
    report = await report_of(api, 3, 8)
    assert groups_of(report) == {
        ("create", "unknown_field", "shelf"): 2,
        ("create", "wrong_type", "position"): 1,
        ("batch", "unknown_field", "shelf"): 1,
        ("batch", "wrong_type", "position"): 1,
        ("beacon", "unknown_field", "shelf"): 1,
        ("beacon", "wrong_type", "position"): 2,
    }
    assert [each["refused"] for each in report["groups"]] == [2, 2, 1, 1, 1, 1], "the most first"
    words = (await api.post(f"{PATH}/validate", json=wrong)).json()["results"][0]["validation_errors"][0]["message"]
    assert {each["message"] for each in report["groups"] if each["field"] == "shelf"} == {words}
    assert report["since"] <= report["groups"][0]["first"] <= report["groups"][0]["last"] <= report["until"]
    assert len(report["per_minute"]) == 60
    assert report["per_minute"][0]["minute"] == report["since"]
    (sender,) = report["accepted_by"]
    assert (sender["key_id"], sender["accepted"]) == (ROOT, 3)
    assert report["since"] <= sender["last"] <= report["until"]
    for name, total in (("accepted", 3), ("refused", 8)):
        assert sum(each[name] for each in report["per_minute"]) == total
    assert (await api.get(REFUSALS, headers=IN_SHOP)).json()["groups"] == [], "nor in another namespace"


async def test_a_large_batch_counts_each_of_its_events(api: httpx.AsyncClient) -> None:
    events = [EVENT | {"execution_id": str(number)} for number in range(300)]
    await api.post(f"{PATH}/batch", json={"interactions": events})
    await api.post(f"{PATH}/batch", json={"interactions": [*events, *[{"feature_id": "f"}] * 7]})
    assert groups_of(await report_of(api, 600, 7)) == {("batch", "missing_field", "interaction_type"): 7}


async def test_requests_that_are_refused_as_a_whole_count_once(lab: Lab) -> None:
    store = KeyStore(lab.database)
    _, reading = await store.create("reads", ("read",), ("shop",))
    _, limited = await store.create("limited", ("write",), ("shop", "default"), 1)
    async with api_of(with_key(lab.settings, http_body_bytes=2_000, rate_limit_burst_ms=1)) as api:
        await until_keys_are_known(api)
        signer = limited.split("_")[1]
        expired, elsewhere = (
            PageToken.until(signer, "shop", origin, life_s).signed(hash_of(limited))
            for origin, life_s in ((SHOP, -1), ("https://b.example", 60))
        )
        for path, headers, body, status in (
            (PATH, {"Authorization": f"Bearer {reading}"}, EVENT, 403),
            (PATH, {"Authorization": f"Bearer {limited}", "X-Namespace": "theirs"}, EVENT, 403),
            (PATH, {"Authorization": f"Bearer {limited}"}, EVENT, 200),
            (f"{PATH}/batch", {"Authorization": f"Bearer {limited}"}, {"interactions": [EVENT] * 9}, 429),
            (PATH, IN_SHOP, EVENT | {"metadata": {"a": "x" * 2_000}}, 413),
            (PATH, IN_SHOP | {"Idempotency-Key": "a b"}, EVENT, 422),
            (f"{PATH}/batch", IN_SHOP, {"events": [EVENT]}, 422),
            (f"{PATH}/beacon?token={expired}", {"Authorization": "", "Origin": SHOP}, EVENT, 401),
            (f"{PATH}/beacon?token={elsewhere}", {"Authorization": "", "Origin": SHOP}, EVENT, 403),
            (PATH, {"Authorization": "Bearer nobody's"}, EVENT, 401),
        ):
            answer = await api.post(path, headers=headers, json=body)
            assert answer.status_code == status, answer.text
        report = await report_of(api, 1, 8, headers=IN_SHOP)
        assert groups_of(report) == {
            ("create", "forbidden", None): 2,
            ("batch", "too_many_requests", None): 1,
            ("create", "body_too_large", None): 1,
            ("create", "string_pattern_mismatch", "idempotency-key"): 1,
            ("batch", "malformed_batch", None): 1,
            ("beacon", "unauthorized", None): 1,
            ("beacon", "forbidden", None): 1,
        }
        assert "default" not in json.dumps(report), "another namespace of a refused key is not named"
        assert "retry in" not in json.dumps(report)


async def test_without_redis_requests_are_served_and_counts_are_a_503(lab: Lab) -> None:
    away = {"redis": SecretStr("redis://127.0.0.1:1/0"), "redis_patience_ms": 100}
    for changes in (away, {"redis": SecretStr("")}):
        async with api_of(with_key(lab.settings, **changes)) as api:
            assert (await api.post(PATH, json=EVENT)).status_code == 200
            assert (await api.post(PATH, json={})).status_code == 422
            refused = await api.get(REFUSALS)
            assert "TALLY_REDIS" in assert_error(refused, 503, "ServiceUnavailableError")["message"]


async def test_counts_of_several_processes_are_added(settings: Settings, redis: Redis) -> None:
    async with BestEffortRedis(settings).opened() as connection:
        await eventually_async(lambda: _answers(connection))
        for _ in range(2):
            counter = RefusalCounter(settings, connection)
            async with counter.added_to_redis():
                counter.count_accepted("batch", "default", 5)
                counter.count_event("create", "default", Rejection("unknown_field", "x" * 200, "y" * 1_000))
                counter.count_event("create", "default", Rejection("bad_id", "a|b", "\ud800"))
        minute = next(iter(await _minutes(redis, settings)))
        found = await read_counts(redis, settings.key_prefix, "default", minute - 60, minute + 60)
    assert sum(found.accepted.values()) == 10
    assert [total.accepted for total in found.senders.values()] == [10]
    assert {group: total.refused for group, total in found.groups.items()} == {
        RefusalGroup("create", "", "unknown_field", "x" * 99 + "…"): 2,
        RefusalGroup("create", "", "bad_id", "a|b"): 2,
    }
    assert {len(total.message) for total in found.groups.values()} == {1, 300}


async def _answers(connection: BestEffortRedis) -> bool:
    return await connection.ask("test", lambda redis: redis.ping()) is not None


async def _minutes(redis: Redis, settings: Settings) -> list[int]:
    """First minutes of the hours with counts."""
    names = [name async for name in redis.scan_iter(f"{settings.key_prefix}:refusals:*")]
    for name in names:
        assert 24 * 3_600_000 < await redis.pttl(name) <= 25 * 3_600_000
    return [int(name.decode().split(":")[-2]) * 60 for name in names]


async def test_a_process_counts_a_bounded_number_of_namespaces(settings: Settings, redis: Redis) -> None:
    async with BestEffortRedis(settings).opened() as connection:
        await eventually_async(lambda: _answers(connection))
        counter = RefusalCounter(settings.model_copy(update={"refusal_namespaces": 2}), connection)
        async with counter.added_to_redis():
            for number in range(5):
                counter.count_accepted("create", f"n{number}", 1)
    counted = {name.decode().rpartition(":")[2] async for name in redis.scan_iter(f"{settings.key_prefix}:refusals:*")}
    assert counted == {"n0", "n1"}


endpoints = st.sampled_from(("create", "batch", "beacon"))
names = st.text(st.characters(codec="utf-8"), max_size=6)
keys = st.sampled_from(("", "1f2e3d4c"))
group = st.builds(RefusalGroup, endpoints, keys, st.sampled_from(("bad_id", "unknown_field")), names)
event = st.tuples(st.sampled_from(("a", "b:c", "{d}")), st.integers(0, 200), group, st.integers(1, 5), names)


@settings(max_examples=40)
@given(st.lists(event, max_size=40), st.integers(0, 200), st.integers(0, 200), st.integers(0, 10**9))
async def test_counts_are_the_sums_of_additions(
    redis: Redis, given_events: list[tuple[str, int, RefusalGroup, int, str]], first: int, last: int, seed: int
) -> None:
    """Law: the counts of a range are the sums of the events in it, whatever their texts and order."""
    prefix, start = f"law-{seed}", 60_000 * 60
    for name in [name async for name in redis.scan_iter(f"{prefix}:*")]:
        await redis.delete(name)
    for number, (namespace, minute, of, count, message) in enumerate(given_events):
        now_ms = (start + minute) * 60_000 + number
        accepted = {of.key_id: AcceptedTotal(count, now_ms)}
        counts = MinuteCounts(accepted, {of: RefusalTotal(count, now_ms, now_ms, message)})
        await add_counts(redis, prefix, {NamespaceMinute(namespace, start + minute): counts})
    first, last = min(first, last), max(first, last)
    for namespace in ("a", "b:c", "{d}"):
        within = [each for each in given_events if each[0] == namespace and first <= each[1] <= last]
        found = await read_counts(redis, prefix, namespace, start + first, start + last)
        by_group, by_minute, by_key = Counter[RefusalGroup](), Counter[int](), Counter[str]()
        for _, minute, of, count, _ in within:
            by_group[of] += count
            by_minute[start + minute] += count
            by_key[of.key_id] += count
        assert {of: total.refused for of, total in found.groups.items()} == by_group
        assert found.accepted == found.refused == by_minute
        assert {key_id: total.accepted for key_id, total in found.senders.items()} == by_key
        assert all(start + first <= total.last_ms // 60_000 <= start + last for total in found.senders.values())
        for total in found.groups.values():
            assert (start + first) * 60_000 <= total.first_ms <= total.last_ms < (start + last + 1) * 60_000


async def test_accepted_events_of_many_keys_are_counted_together(redis: Redis) -> None:
    prefix, now_ms = "many-senders", 60_000 * 60_000
    for start in (0, MAX_SENDERS // 2, MAX_SENDERS):
        counts = MinuteCounts()
        for number in range(start, start + 2 * MAX_SENDERS):
            counts.add_accepted(f"key-{number}", 2, now_ms + number)
        assert len(counts.accepted) == MAX_SENDERS + 1
        await add_counts(redis, prefix, {NamespaceMinute("n", 60_000): counts})
    found = await read_counts(redis, prefix, "n", 60_000, 60_000)
    assert len(found.senders) == MAX_SENDERS + 1
    assert sum(total.accepted for total in found.senders.values()) == found.accepted[60_000] == 12 * MAX_SENDERS
    await redis.delete(*[name async for name in redis.scan_iter(f"{prefix}:*")])


async def test_events_of_ever_new_fields_are_counted_together(api: httpx.AsyncClient, redis: Redis, lab: Lab) -> None:
    for number in range(2 * MAX_GROUPS):
        await api.post(PATH, json=EVENT | {f"new_{number}": 1})
    report = await report_of(api, 0, 2 * MAX_GROUPS)
    assert groups_of(report)["create", OTHER, None] >= MAX_GROUPS - 1
    assert len(report["groups"]) <= MAX_GROUPS + 1
    for name in [each async for each in redis.scan_iter(f"{lab.settings.key_prefix}:refusals:*")]:
        fields = [each for each in await redis.hkeys(name) if each[:2] == b"f|"]
        assert len(fields) <= MAX_GROUPS + 1


@pytest.mark.parametrize(
    ("query", "named"), [("minutes=0", "minutes"), ("minutes=1441", "minutes"), ("hours=1", "hours")]
)
async def test_a_wrong_range_is_named(api: httpx.AsyncClient, query: str, named: str) -> None:
    assert named in assert_error(await api.get(f"{REFUSALS}?{query}"), 422, "ValidationError")["message"]
