"""Health of the tracking as a metric: one reader measures, all publish, and nothing waits for it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import SecretStr

from readers import tracking_health
from readers.health_turns import HealthTurns
from readers.report_statement import ReportRequest
from readers.reports import ReportResult
from readers.tracking_health import MIN_SUPPORT, TrackingHealth, excess_of
from runtime.clickhouse import connect
from runtime.http.best_effort import BestEffortRedis
from runtime.settings import Settings
from schemas.analytics.health import CHECKS, HEALTH
from schemas.interaction import Interaction
from tests.chaos.proxy import proxy_to
from tests.http_lab import EVENT, PATH, api_of, with_key
from tests.lab import Lab, at_port, click
from tests.monitoring_lab import samples
from tests.waiting import eventually_async

METRIC = "tally_tracking_fault_excess"
HOUR_MS = 3_600_000
ALLOWED = {check.name: check.limit for check in CHECKS}
QUERY = "missing_query"


def published() -> dict[tuple[str, str], float]:
    """The samples of this process."""
    return {
        (sample.labels["namespace"], sample.labels["check"]): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == METRIC
    }


def impressions(count: int, *, name: str = "x", query: str = "") -> Iterator[Interaction]:
    """Impressions in executions of their own, each by another user."""
    for number in range(count):
        yield click(
            execution=f"{name}-{number}",
            interaction_type=["impression"],
            user_id=f"{name}-{number}",
            query_snapshot={"text": query} if query else None,
        )


async def emit_to(lab: Lab, namespace: str, events: Iterator[Interaction]) -> None:
    """Emit events in a namespace."""
    settings = lab.settings.model_copy(update={"namespace": namespace})
    await Lab(settings, lab.database, lab._raw).emit_all(events)


@asynccontextmanager
async def reader_of(settings: Settings) -> AsyncIterator[TrackingHealth]:
    """A reader's measurement, whose refreshes the test asks for. Its Redis is connected, if it has an address."""
    redis = BestEffortRedis(settings)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(connect(settings, lazily=True, threads=1))
        if settings.redis.get_secret_value():
            await stack.enter_async_context(redis.opened())
            await eventually_async(lambda: is_connected(redis))
        health = TrackingHealth(settings, database, HealthTurns(settings, redis))
        yield health
        health.publish({})


async def is_connected(redis: BestEffortRedis) -> bool:
    return await redis.ask("test", lambda connected: connected.ping()) is not None


@pytest.fixture
def alone(settings: Settings) -> Settings:
    """Settings by which every refresh measures: no Redis, and no pause."""
    return with_key(settings, redis=SecretStr(""), health_every_ms=0)


@pytest.fixture
def shared(settings: Settings) -> Settings:
    """Settings by which readers share one measurement an hour."""
    return with_key(settings, health_every_ms=HOUR_MS)


async def test_a_metric_is_the_share_of_faults_divided_by_the_allowed_one(lab: Lab, alone: Settings) -> None:
    """Checks that cannot fail, and those of too few events, have no sample."""
    await emit_to(lab, "shop", impressions(MIN_SUPPORT, query="red shoes"))
    await emit_to(lab, "shop", impressions(MIN_SUPPORT, name="bare"))
    await emit_to(lab, "small", impressions(MIN_SUPPORT - 1))
    await lab.drain()
    async with reader_of(alone) as health:
        await health.refresh()
        found = published()
    assert found["shop", QUERY] == pytest.approx(0.5 / ALLOWED[QUERY])
    assert found["shop", "missing_execution_id"] == 0
    assert {check for _, check in found} == {
        "bots",
        "clock_ahead",
        "duplicates",
        "executions_without_impressions",
        "missing_execution_id",
        QUERY,
        "rejected",
    }
    assert {namespace for namespace, _ in found} == {"shop"}
    assert published() == {}, "a reader that has ended has no samples"


async def test_values_follow_the_events_and_a_namespace_without_them_has_none(lab: Lab, alone: Settings) -> None:
    await emit_to(lab, "shop", impressions(MIN_SUPPORT))
    await emit_to(lab, "gone", impressions(MIN_SUPPORT))
    await lab.drain()
    async with reader_of(alone) as health:
        await health.refresh()
        assert published()["shop", QUERY] == published()["gone", QUERY] == pytest.approx(1 / ALLOWED[QUERY])
        await lab.database.command("ALTER TABLE interactions DELETE WHERE 1 SETTINGS mutations_sync = 1")
        await emit_to(lab, "shop", impressions(MIN_SUPPORT, name="y", query="red shoes"))
        await lab.drain()
        await health.refresh()
        assert published()["shop", QUERY] == 0
        assert not [namespace for namespace, _ in published() if namespace == "gone"]


async def test_the_namespaces_with_the_most_events_are_measured(
    lab: Lab, alone: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rejected events count, and events before the last hour do not."""
    monkeypatch.setattr(tracking_health, "MAX_NAMESPACES", 2)
    monkeypatch.setattr(tracking_health, "MIN_SUPPORT", 1)
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    await emit_to(lab, "second", impressions(3))
    await emit_to(lab, "third", impressions(2))
    await emit_to(lab, "past", (each.model_copy(update={"occurred_at": long_ago}) for each in impressions(9)))
    await lab.drain()
    await lab.database.command(
        "INSERT INTO outcomes (namespace, interaction_id, verdict, timestamp) "
        "SELECT 'refused', toString(number), 'rejected', now64(3) FROM numbers(4)"
    )
    async with reader_of(alone) as health:
        await health.refresh()
        assert {namespace for namespace, _ in published()} == {"refused", "second"}
        assert published()["refused", "rejected"] == 1 / ALLOWED["rejected"]


async def test_one_reader_measures_and_the_others_publish_its_numbers(lab: Lab, shared: Settings) -> None:
    await emit_to(lab, "shop", impressions(MIN_SUPPORT))
    await lab.drain()
    away = shared.model_copy(update={"clickhouse": at_port(shared.clickhouse, 1)})
    async with reader_of(shared) as first, reader_of(away) as second:
        await first.refresh()
        measured = published()
        first.publish({})
        await second.refresh()
        assert published() == measured != {}, "it would have failed to measure"


async def test_the_next_turn_begins_after_the_pause(lab: Lab, settings: Settings) -> None:
    """A reader that dies in its turn does not keep it."""
    brief = with_key(settings, health_every_ms=1, report_timeout_ms=100)
    numbers = {("shop", QUERY): 2.5, ("läden 'a'", "bots"): 0.0}
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(BestEffortRedis(brief).opened()) for _ in range(2)]
        for each in readers:
            await eventually_async(lambda each=each: is_connected(each))  # type: ignore[misc]
        dying = HealthTurns(brief, readers[0])
        other = HealthTurns(brief.model_copy(update={"report_timeout_ms": 60_000}), readers[1])
        assert (await dying.take()).is_own

        async def takes_over() -> bool:
            return (await other.take()).is_own

        await eventually_async(takes_over)
        await other.end(numbers)
        long = HealthTurns(brief.model_copy(update={"health_every_ms": HOUR_MS}), readers[0])

        async def knows_the_numbers() -> bool:
            turn = await long.take()
            assert turn.numbers == numbers
            return turn.is_own

        await eventually_async(knows_the_numbers)
        assert await other.take() == (False, numbers), "the other one has an hour"


async def test_without_clickhouse_requests_are_served_and_one_line_is_logged(
    lab: Lab, shared: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await emit_to(lab, "shop", impressions(MIN_SUPPORT))
    await lab.drain()
    port = urlsplit(shared.clickhouse.get_secret_value()).port
    assert port
    async with proxy_to(port) as proxy:
        through = shared.model_copy(update={"clickhouse": at_port(shared.clickhouse, proxy.port)})
        quick = through.model_copy(update={"health_every_ms": 0, "redis": SecretStr("")})
        async with api_of(through.model_copy(update={"health_every_ms": 0})) as api, reader_of(quick) as health:
            await health.refresh()
            assert published()
            proxy.refusing = True
            proxy.cut()
            await health.refresh()
            assert published() == {}, "stale values"
            assert (await api.post(PATH, json=EVENT)).status_code == 200
            caplog.clear()
            async with reader_of(through) as one, reader_of(through) as other:
                for each in (one, other, one, other):
                    await each.refresh()
                    assert published() == {}
            lines = [line for line in map(logging.LogRecord.getMessage, caplog.records) if "health" in line]
            assert len(lines) == 1, lines
            assert "health is not measured, next attempt in 3600 s: ClickHouse (TALLY_CLICKHOUSE)" in lines[0]
            proxy.pass_everything()
            await health.refresh()
            assert published()


async def test_a_namespace_beyond_the_limits_does_not_hide_the_others(
    lab: Lab, alone: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await emit_to(lab, "shop", impressions(MIN_SUPPORT))
    await lab.drain()
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, execution_id, query_snapshot, interaction_type, "
        "timestamp, _event_time_ms) SELECT 'huge', toString(generateUUIDv4()), toString(number), repeat('x', 5000), "
        "['impression'], now64(3), toUnixTimestamp64Milli(now64(3)) FROM numbers(20000)"
    )
    small = alone.model_copy(update={"report_memory_bytes": 64 * 1024 * 1024})
    async with reader_of(small) as health:
        await health.refresh()
        assert {namespace for namespace, _ in published()} == {"shop"}
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tally.api"]
    assert line.startswith("the tracking's health of namespace huge is not measured: since, until: the report needs")


async def test_an_api_measures_periodically(lab: Lab, settings: Settings) -> None:
    await emit_to(lab, "shop", impressions(MIN_SUPPORT))
    await lab.drain()
    async with api_of(with_key(settings, health_every_ms=100), "reader") as api:

        async def is_measured() -> bool:
            return (await samples(api, "", METRIC)).get(f"{QUERY} shop", 0) > 1

        await eventually_async(is_measured)
        await emit_to(lab, "shop", impressions(3 * MIN_SUPPORT, name="y", query="red shoes"))
        await lab.drain()

        async def is_better() -> bool:
            return (await samples(api, "", METRIC))[f"{QUERY} shop"] == pytest.approx(0.25 / ALLOWED[QUERY])

        await eventually_async(is_better)
    assert published() == {}


async def test_a_reader_that_does_not_measure_has_no_task_for_it(lab: Lab, settings: Settings) -> None:
    def measuring() -> list[str]:
        names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
        return [name for name in names if name.startswith(TrackingHealth.__name__)]

    for every_ms, tasks in ((HOUR_MS, 1), (0, 0)):
        async with api_of(with_key(settings, health_every_ms=every_ms), "reader"):
            assert len(measuring()) == tasks


@given(
    st.lists(
        st.tuples(st.sampled_from(CHECKS), st.integers(0, 10**6), st.integers(0, 10**6)),
        unique_by=lambda row: row[0].name,
    )
)
def test_a_value_is_above_1_when_its_check_fails_and_only_then(rows: list[tuple[Any, int, int]]) -> None:
    now = datetime.now(UTC)
    result = ReportResult(HEALTH, ReportRequest("health", "shop", now, now), [as_row(*row) for row in rows], False)
    found = excess_of(result)
    for check, faults, healthy in rows:
        is_measured = check.limit < 1 and faults + healthy >= MIN_SUPPORT
        assert (("shop", check.name) in found) == is_measured
        if is_measured:
            assert (found["shop", check.name] > 1) == (faults / (faults + healthy) > check.limit)


def as_row(check: Any, faults: int, healthy: int) -> list[Any]:
    """A row of the report."""
    of = faults + healthy
    return ["", check.name, faults, of, faults / of if of else None, check.limit, "", "", "events", []]
