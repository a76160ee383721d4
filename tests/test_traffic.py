"""Traffic and states of namespaces: exact numbers by append time, of the namespaces of the key alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from readers import namespace_states, traffic, traffic_steps
from readers.traffic import TrafficRange
from readers.verdict_sql import select_verdicts
from runtime.clickhouse import ClickHouse
from runtime.http.key_store import KeyStore
from schemas.wire import encode_headers
from tests.http_lab import api_of, consuming, until_all_ready, with_key
from tests.lab import Lab, as_json, click
from tests.test_deletion import delete
from tests.waiting import eventually_async

SHOP = {"X-Namespace": "shop"}
NOTHING = {"stored": 0, "duplicate": 0, "rejected": 0, "deleted": 0, "moved": 0}
MINUTE_MS, DAY_MS = 60_000, 86_400_000
STORED = """
INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, position, timestamp, _event_time_ms,
    _topic, _partition, _offset)
SELECT {namespace:String}, concat('int_', leftPad(lower(hex({begin:Int64} + number * {step:Int64})), 12, '0'), 'x'),
    'f', ['click'], 0, fromUnixTimestamp64Milli({begin:Int64} + number * {step:Int64}, 'UTC') AS at,
    toUnixTimestamp64Milli(at), 'log', 0, {first:UInt64} + number
FROM numbers({count:UInt64})"""
OUTCOMES = """
INSERT INTO outcomes (namespace, interaction_id, verdict, timestamp, _topic, _partition, _offset)
SELECT {namespace:String}, concat('int_', leftPad(lower(hex({begin:Int64} + number * {step:Int64})), 12, '0'), 'y'),
    {verdict:String}, fromUnixTimestamp64Milli({begin:Int64} + number * {step:Int64}, 'UTC'), 'log', 1,
    {first:UInt64} + number
FROM numbers({count:UInt64})"""


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The reader on this test's tables."""
    async with api_of(with_key(lab.settings), "reader") as client:
        yield client


async def put(lab: Lab, sql: str, begin_ms: int, count: int, step_ms: int = 1, **more: Any) -> None:
    """Insert rows at regular times, in the namespace `default` unless another one is given."""
    values = {"namespace": "default", "first": begin_ms, **more}
    await lab.database.command(sql, {**values, "begin": begin_ms, "count": count, "step": step_ms})


async def traffic_of(api: httpx.AsyncClient, headers: dict[str, str] | None = None, **query: int) -> Any:
    """Return the traffic."""
    answer = await api.get("/v1/traffic", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_each_event_counts_once_by_its_verdict(lab: Lab, api: httpx.AsyncClient) -> None:
    receipts = await lab.emit(
        *[click(f"doc-{number}", f"exec-{number}") for number in range(5)], click("doc-0", "exec-0")
    )
    await lab.put(as_json(position=-1), headers=encode_headers("default"))
    await lab.put(as_json("doc-9"), headers=encode_headers("shop"))
    await lab.drain()
    await delete(api, receipts[0].interaction_id)
    for table in ("interactions", "outcomes"):  # as an insert that was repeated after a crash
        await lab.database.command(f"INSERT INTO {table} SELECT * FROM {table}")
    found = await traffic_of(api)
    expected = {**NOTHING, "stored": 4, "duplicate": 1, "rejected": 1, "deleted": 1}
    assert found["totals"] == expected
    for verdict, number in expected.items():
        assert sum(point[verdict] for point in found["points"]) == number
    assert [each["interaction_type"] for each in found["last_event"]] == ["click"]
    assert 0 <= found["last_event"][0]["age_ms"] < 10 * MINUTE_MS
    assert (await traffic_of(api, SHOP))["totals"] == {**NOTHING, "stored": 1}


async def test_points_are_of_minutes_up_to_three_hours_and_of_hours_beyond(lab: Lab, api: httpx.AsyncClient) -> None:
    now_ms = int(time.time() * 1000)
    await put(lab, STORED, now_ms - 30 * MINUTE_MS, 3)
    await put(lab, STORED, now_ms - 2 * DAY_MS, 4)
    await put(lab, OUTCOMES, now_ms - 2 * DAY_MS, 2, verdict="moved")
    for minutes, step_ms, stored in (
        (60, MINUTE_MS, 3),
        (180, MINUTE_MS, 3),
        (181, 60 * MINUTE_MS, 3),
        (4_320, 60 * MINUTE_MS, 7),
    ):
        found = await traffic_of(api, minutes=minutes)
        assert (found["step_ms"], found["totals"]["stored"]) == (step_ms, stored)
        times = [datetime.fromisoformat(point["at"]) for point in found["points"]]
        assert {after - before for before, after in pairwise(times)} == {timedelta(milliseconds=step_ms)}
        until, since = (datetime.fromisoformat(found[end]) for end in ("until", "since"))
        assert times[0] == since <= until - timedelta(minutes=minutes)
        assert times[-1] <= until < times[-1] + timedelta(milliseconds=step_ms)
    assert found["totals"]["moved"] == 2


@pytest.mark.parametrize("query", [{"minutes": 0}, {"minutes": 10_081}, {"minutes": "x"}, {"unknown": 1}])
async def test_a_range_that_cannot_be_counted_is_refused(shared_api: httpx.AsyncClient, query: dict[str, Any]) -> None:
    answer = await shared_api.get("/v1/traffic", params=query)
    assert answer.status_code == 422
    assert next(iter(query)) in answer.json()["error"]["message"]


async def test_viewers_share_one_computation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []
    rows = ClickHouse.rows

    async def counted(self: ClickHouse, sql: str, *arguments: Any, **options: Any) -> Any:
        statements.append(sql)
        return await rows(self, sql, *arguments, **options)

    monkeypatch.setattr(ClickHouse, "rows", counted)
    for module in (traffic, namespace_states):
        monkeypatch.setattr(module, "SHARED_S", 60.0)
    async with api_of(with_key(lab.settings), "reader") as api:
        await asyncio.gather(*[api.get("/v1/traffic") for _ in range(50)])
        assert sum("is_deleted" in sql for sql in statements) == 1
        await asyncio.gather(*[api.get("/v1/namespaces") for _ in range(50)])
        assert sum("is_deleted" in sql for sql in statements) == 3, "of the last window, and of the baseline"


@pytest.mark.parametrize("minutes", [60, 1_440])
async def test_steps_that_are_over_are_read_once(lab: Lab, monkeypatch: pytest.MonkeyPatch, minutes: int) -> None:
    """A second look counts new events of the last minutes, and older ones only when their step has expired."""
    monkeypatch.setattr(traffic, "SHARED_S", 0.0)
    now_ms = int(time.time() * 1000)
    old_ms = now_ms - minutes * MINUTE_MS // 2
    await put(lab, STORED, old_ms, 3)
    asked: list[int] = []
    select = ClickHouse.rows

    async def noted(self: ClickHouse, sql: str, parameters: Any = None, *, limits: Any = None) -> Any:
        if "is_deleted" in sql:
            asked.append(next(each for each in parameters.values() if isinstance(each, int)))
        return await select(self, sql, parameters, limits=limits)

    async with api_of(with_key(lab.settings), "reader") as api:
        monkeypatch.setattr(ClickHouse, "rows", noted)
        assert (await traffic_of(api, minutes=minutes))["totals"]["stored"] == 3
        assert min(asked) <= old_ms
        asked.clear()
        await put(lab, STORED, old_ms + 10, 3)
        await put(lab, STORED, now_ms, 2)
        found = await traffic_of(api, minutes=minutes)
        assert found["totals"]["stored"] == 5
        assert found["last_event"][0]["age_ms"] < 5 * MINUTE_MS
        assert min(asked) > now_ms - 5 * MINUTE_MS
        monkeypatch.setattr(traffic_steps, "KEPT_S", 0.0)
        assert (await traffic_of(api, minutes=minutes))["totals"]["stored"] == 8


async def test_a_long_table_is_read_for_the_range_alone(lab: Lab) -> None:
    """A statement over one hour reads about an hour of ten days, in both tables."""
    rows, span = 1_000_000, TrafficRange.last(60, int(time.time() * 1000))
    begin_ms = span.now_ms - 10 * DAY_MS
    step_ms = 10 * DAY_MS // rows
    await put(lab, STORED, begin_ms, rows, step_ms)
    await put(lab, OUTCOMES, begin_ms, rows, step_ms, verdict="duplicate")
    for table in ("interactions", "outcomes"):
        await lab.database.command(f"OPTIMIZE TABLE {table} FINAL")
    since = f"fromUnixTimestamp64Milli({span.since_ms}, 'UTC')"
    plan = await lab.rows(
        "EXPLAIN json = 1, indexes = 1 "
        + select_verdicts(f"namespace = 'default' AND timestamp >= {since}", "toStartOfMinute(timestamp)")
    )
    read = [each for each in indexes_of(json.loads(plan[0][0])) if each.get("Name") == "timestamp_range"]
    assert [each["Selected Granules"] <= 16 for each in read] == [True] * 3  # statistics leave the tombstones out
    assert [each["Initial Granules"] > 100 for each in read] == [True, False, True]


async def test_windows_of_several_namespaces_are_read_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges lie apart in the order of the table, one for each namespace and day: nothing between them is read."""
    rows, names = 20_000, ("default", "help", "shop")
    begin_ms = int(time.time() * 1000) - 10 * DAY_MS
    for name in names:
        await put(lab, STORED, begin_ms, rows, 10 * DAY_MS // rows, namespace=name)
    asked: list[tuple[str, Any, Any]] = []
    select = ClickHouse.rows

    async def noted(self: ClickHouse, sql: str, parameters: Any = None, *, limits: Any = None) -> Any:
        asked.append((sql, parameters, limits))
        return await select(self, sql, parameters, limits=limits)

    async with api_of(with_key(lab.settings, api_namespaces=names), "reader") as api:
        monkeypatch.setattr(ClickHouse, "rows", noted)
        assert set(await states(api)) == set(names)
        await traffic_of(api)
        monkeypatch.undo()
    plans = [
        json.loads((await lab.database.rows(f"EXPLAIN json = 1, indexes = 1 {sql}", parameters, limits=limits))[0][0])
        for sql, parameters, limits in asked
        if "FINAL" in sql
    ]
    assert len(plans) >= 3, "of the last window, of the baseline, and of the traffic"
    kinds = {each["Type"] for plan in plans for each in indexes_of(plan)}
    assert "Skip" in kinds
    assert "PrimaryKeyExpand" not in kinds, "it reads all granules between those of the ranges, in every part"


def indexes_of(plan: Any) -> list[dict[str, Any]]:
    """Return the indexes of every step of a plan."""
    if isinstance(plan, list):
        return [found for each in plan for found in indexes_of(each)]
    if not isinstance(plan, dict):
        return []
    return [*plan.get("Indexes", []), *(found for each in plan.values() for found in indexes_of(each))]


async def states(api: httpx.AsyncClient, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the states of the key's namespaces by name."""
    answer = await api.get("/v1/namespaces", headers=headers)
    assert answer.status_code == 200, answer.text
    return {each["namespace"]: each for each in answer.json()["namespaces"]}


async def test_a_namespace_that_was_busy_at_this_time_of_the_day_is_silent(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace_states, "SHARED_S", 0.0)
    now_ms = int(time.time() * 1000)
    for day in range(1, 8):
        await put(lab, STORED, now_ms - day * DAY_MS - 10 * MINUTE_MS, 300, 100)
        await put(lab, STORED, now_ms - day * DAY_MS - 10 * MINUTE_MS, 300, 100, namespace="shop")
    await put(lab, STORED, now_ms - 14 * MINUTE_MS, 100)
    await put(lab, STORED, now_ms - 2 * MINUTE_MS, 90, namespace="shop")
    await put(lab, OUTCOMES, now_ms - 2 * MINUTE_MS, 60, namespace="shop", verdict="duplicate")
    await put(lab, OUTCOMES, now_ms - 2 * MINUTE_MS, 60, namespace="other", verdict="duplicate")
    await put(lab, OUTCOMES, now_ms - 2 * MINUTE_MS, 60, namespace="shop", verdict="moved", first=0)
    settings = with_key(lab.settings, api_namespaces=("shop", "default", "empty"))
    async with api_of(settings, "reader") as api, consuming(settings):
        await until_all_ready(api, {"redis", "keys", "clickhouse", "progress", "workers"})

        async def is_judged() -> bool:
            return not (await api.get("/v1/namespaces")).json()["notes"]

        await eventually_async(is_judged)
        found = await states(api)
        assert list(found) == ["shop", "default", "empty"]
        silent = found["default"]
        assert (silent["silent"], silent["events_15m"], silent["expected_15m"]) == (True, 100, 300.0)
        assert silent["problems"][0].startswith("no event for 1")
        assert 13 * MINUTE_MS < silent["age_ms"] < 30 * MINUTE_MS
        shop = found["shop"]
        assert (shop["silent"], shop["events_15m"], shop["duplicate_share"]) == (False, 150, 0.4)
        assert shop["expected_duplicate_share"] == 0
        assert shop["problems"] == ["40 % duplicates in the last 15 min (40 % in the last 5); 0 % are usual"]
        empty = found["empty"]
        assert [empty[name] for name in ("last_event", "age_ms", "expected_15m", "silent")] == [None, None, None, False]


async def test_silence_is_not_judged_while_the_progress_is_unknown(lab: Lab) -> None:
    now_ms = int(time.time() * 1000)
    for day in range(1, 8):
        await put(lab, STORED, now_ms - day * DAY_MS - 10 * MINUTE_MS, 300, 100)
    async with api_of(with_key(lab.settings, kafka=""), "reader") as api:
        answer = (await api.get("/v1/namespaces")).json()
        assert answer["notes"] == ["silence is not judged: the progress of the workers is unknown"]
        (state, _) = answer["namespaces"]
        assert (state["silent"], state["expected_15m"]) == (False, 300.0)
        last = datetime.fromisoformat(state["last_event"])
        assert last.timestamp() * 1000 == pytest.approx(now_ms - DAY_MS - 10 * MINUTE_MS + 299 * 100, abs=1)


async def test_a_key_sees_only_the_states_of_its_own_namespaces(lab: Lab, api: httpx.AsyncClient) -> None:
    _, key = await KeyStore(lab.database).create("a test's", ("read",), ("shop",))
    header = {"Authorization": f"Bearer {key}"}

    async def is_known() -> bool:
        return (await api.get("/v1/namespaces", headers=header)).status_code == 200

    await eventually_async(is_known)
    assert list(await states(api, header)) == ["shop"]
    assert list(await states(api)) == ["default", "shop"]
