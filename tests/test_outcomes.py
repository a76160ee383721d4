"""Events that were not stored are as easy to find as stored ones, and so is progress."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.outcomes import DUPLICATE_REASONS, REJECTION_REASONS
from readers.progress import MAX_SNAPSHOTS, ConsumerProgress
from runtime.settings import Settings
from schemas.identity import PREFIX, mint_id
from schemas.wire import encode_headers
from tally.tail import TailEvent, TailFilter, tail
from tests.http_lab import PATH, api_of, assert_error, consuming, with_key
from tests.lab import Lab, as_json, click


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings), "reader") as client:
        yield client


async def found(api: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    results: list[dict[str, Any]] = []
    while True:
        answer = await api.get("/v1/outcomes", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        results += page["results"]
        if page["next_cursor"] is None:
            return results
        query["cursor"] = page["next_cursor"]


async def test_outcomes_are_filtered_by_user_execution_reason_and_time(lab: Lab, api: httpx.AsyncClient) -> None:
    (owner,) = await lab.emit(click(user_id="ada"))
    (repeat,) = await lab.emit(click(user_id="bob"))
    bad = as_json(position=-1, user_id="eve", execution="exec-2", interaction_id=mint_id())
    await lab.put(bad, headers=encode_headers("default"))
    await lab.put(b"no json", headers=encode_headers("default"))
    await lab.drain()
    both = await found(api)
    assert [each["verdict"] for each in both] == ["rejected", "duplicate"]
    rejected, duplicate = both
    assert duplicate["interaction_id"] == repeat.interaction_id
    assert (duplicate["duplicate_of"], duplicate["reason"]) == (owner.interaction_id, "same_key")
    assert duplicate["explanation"] == DUPLICATE_REASONS["same_key"]
    assert (rejected["reason"], rejected["field"]) == ("number_out_of_range", "position")
    assert rejected["explanation"] == REJECTION_REASONS["number_out_of_range"]
    assert "greater than or equal" in rejected["message"]
    for query, expected in (
        ({"user_id": "bob"}, [duplicate]),
        ({"user_id": "eve"}, [rejected]),
        ({"execution_id": "exec-2"}, [rejected]),
        ({"verdict": "duplicate"}, [duplicate]),
        ({"reason": "number_out_of_range"}, [rejected]),
        ({"since": duplicate["timestamp"]}, both),
        ({"until": duplicate["timestamp"]}, []),
        ({"since": "2026-01-01", "until": "2026-01-02T00:00:00+01:00"}, []),
        ({"limit": 1}, both),
    ):
        assert await found(api, **query) == expected, query
    (unparseable,) = await found(api, unattributed=True)
    assert unparseable["reason"] == "not_json"


async def test_an_invalid_query_is_refused(api: httpx.AsyncClient) -> None:
    for query in ({"since": "yesterday"}, {"cursor": "x"}, {"verdict": "stored"}, {"limit": 0}, {"user_id": "x" * 513}):
        assert_error(await api.get("/v1/outcomes", params=query), 422, "ValidationError")


async def test_status_follows_an_event(lab: Lab) -> None:
    settings = with_key(lab.settings, delivery_timeout_ms=60_000)
    async with api_of(settings) as api:
        (receipt,) = await lab.emit(click())
        asked = f"{PATH}/{receipt.interaction_id}"
        assert (await api.get(f"{asked}/status")).json()["status"] == "accepted"
        answer = await api.get(asked)
        error = assert_error(answer, 404, "NotFoundError", "in_flight")
        assert error["message"].startswith(f"interaction '{receipt.interaction_id}' is not stored yet")
        assert answer.headers["retry-after"] == "1"
        waiting = asyncio.create_task(api.get(asked, headers={"Prefer": "wait=10"}))
        await lab.drain()
        assert (await waiting).status_code == 200
        assert (await api.get(f"{asked}/status")).json()["status"] == "stored"
        future = f"{PREFIX}{int(time.time() * 1000) + 3_600_000:012x}7{'0' * 3}8{'0' * 15}"
        assert_error(await api.get(f"{PATH}/{future}"), 404, "NotFoundError", "unknown")


async def test_waiters_are_bounded(lab: Lab) -> None:
    settings = with_key(lab.settings, waiters=0, read_wait_ms=60_000, delivery_timeout_ms=60_000)
    async with api_of(settings, "reader") as api:
        assert_error(await api.get(f"{PATH}/{mint_id()}"), 404, "NotFoundError", "in_flight")


steps = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=40)


@given(steps)
def test_records_appended_before_the_settled_time_are_committed(moves: list[tuple[int, int, bool]]) -> None:
    """Partitions grow and are committed in any order: all records appended before `settled_ms` are committed."""
    progress = ConsumerProgress(Settings())
    log: dict[int, list[int]] = {0: [], 1: []}
    committed = {0: 0, 1: 0}
    for now, (appended, done, first) in enumerate(moves, start=1):
        partition = 0 if first else 1
        ends = {number: len(times) for number, times in log.items()}
        at_ms = now * 10
        # Records that are appended and committed between reading the ends and the commits.
        log[partition] += [at_ms + 1] * appended
        committed[partition] = min(len(log[partition]), committed[partition] + done)
        progress.note(at_ms, ends, dict(committed))
        for number, times in log.items():
            assert all(append_ms > progress.settled_ms for append_ms in times[committed[number] :])
    for number, times in log.items():
        committed[number] = len(times)
    last_ms = (len(moves) + 1) * 10
    progress.note(last_ms, dict(committed), committed)
    assert progress.settled_ms == last_ms


def test_snapshots_of_a_long_lag_are_bounded() -> None:
    progress = ConsumerProgress(Settings())
    for now in range(3 * MAX_SNAPSHOTS):
        progress.note(now, {0: now + 1}, {0: 0})
    assert len(progress._snapshots) <= MAX_SNAPSHOTS
    progress.note(3 * MAX_SNAPSHOTS, {0: 3 * MAX_SNAPSHOTS}, {0: MAX_SNAPSHOTS})
    assert 0 < progress.settled_ms < MAX_SNAPSHOTS


async def test_the_tail_shows_events_with_their_verdicts(lab: Lab) -> None:
    async with consuming(lab.settings):
        for wanted, features in (
            (TailFilter(), ["a", "a", "b", None]),
            (TailFilter(verdict="duplicate"), ["a"]),
            (TailFilter(user_id="bob"), ["b"]),
            (TailFilter(interaction_type="view"), ["b"]),
            (TailFilter(namespace="elsewhere"), ["c"]),
        ):
            following = tail(lab.settings, lab.database, wanted)
            seen: list[TailEvent] = []

            async def follow(
                following: Any = following, seen: list[TailEvent] = seen, count: int = len(features)
            ) -> None:
                async for each in following:
                    assert isinstance(each, TailEvent)
                    seen.append(each)
                    if len(seen) == count:
                        return

            watching = asyncio.create_task(follow())
            for _ in range(40):  # it shows what comes after it has begun, and nothing says when that is
                execution = mint_id()
                await lab.put(as_json("a", execution))
                await lab.put(as_json("a", execution))
                await lab.put(as_json("b", execution, user_id="bob", interaction_type=["view"]))
                await lab.put(b"no json")
                await lab.put(as_json("c", execution), headers=encode_headers("elsewhere"))
                done, _ = await asyncio.wait([watching], timeout=0.5)
                if done:
                    break
            await asyncio.wait_for(watching, 60)
            assert {each.feature_id for each in seen} <= set(features) | ({"c"} if wanted == TailFilter() else set())
            assert all(each.verdict for each in seen)
            assert all(each.verdict == wanted.verdict for each in seen if wanted.verdict)
            await following.aclose()


async def test_outcomes_are_counted_by_their_values(lab: Lab, api: httpx.AsyncClient) -> None:
    """Each event counts once, also one that was recorded twice; deleted ones do not count."""
    await lab.emit(*[click(f"doc-{number % 2}", "storm", user_id="eve") for number in range(8)])
    await lab.emit(*[click("doc-1", "other", user_id="bob") for _ in range(2)])
    await lab.drain()
    await lab.rows("INSERT INTO outcomes SELECT * FROM outcomes")

    async def groups(**query: Any) -> dict[str, Any]:
        answer = await api.get("/v1/outcomes/groups", params=query)
        assert answer.status_code == 200, answer.text
        counted: dict[str, Any] = answer.json()
        return counted

    counted = await groups()
    assert [(each["value"], each["events"]) for each in counted["groups"]] == [("storm", 6), ("other", 1)]
    assert counted["events"] == 7
    assert counted["groups"][0]["first"] <= counted["groups"][0]["last"]
    by_user = await groups(by="user_id", limit=1)
    assert ([each["value"] for each in by_user["groups"]], by_user["events"]) == (["eve"], 7)
    await api.delete(f"{PATH}/{counted['groups'][1]['example']}")
    assert (await groups())["events"] == 6
    assert await groups(verdict="rejected") == {"groups": [], "events": 0}
    assert_error(await api.get("/v1/outcomes/groups", params={"by": "message"}), 422, "ValidationError")
