"""Leader of counts: one API process at a time counts, and every one knows their age."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from learning.weights import count_leader
from learning.weights.aggregates import count_once
from learning.weights.count_check import differences
from learning.weights.count_leader import CountLeader
from learning.weights.count_progress import CountShape
from runtime.clickhouse import connect
from runtime.deletions import Deletion, Deletions
from runtime.http.best_effort import BestEffortRedis
from runtime.metrics import LEARNING_COUNTS_AGE, LEARNING_DAYS_COUNTED
from runtime.settings import Settings
from tests.counts_lab import NAMESPACE, RETRIEVER, Configurations, StoredLog, counted_from_scratch, rows_in_force
from tests.http_lab import api_of, with_key
from tests.lab import Lab, click
from tests.waiting import eventually_async


@asynccontextmanager
async def leader_of(settings: Settings) -> AsyncIterator[CountLeader]:
    """The counting of one API process, whose looks the test asks for."""
    async with connect(settings) as database, BestEffortRedis(settings).opened() as redis:

        async def is_connected() -> bool:
            return await redis.ask("test", lambda connected: connected.ping()) is not None

        await eventually_async(is_connected)
        leader = CountLeader(settings, database, redis)
        yield leader
        await leader.lease.release()


@pytest.fixture
async def log(lab: Lab) -> StoredLog:
    await lab.database.command("INSERT INTO topics (topic, partitions) VALUES ('t', 2)")
    await Configurations(lab.database).put()
    return StoredLog(lab)


async def days_counted(lab: Lab) -> int:
    ((days,),) = await lab.rows("SELECT count() FROM learning_days FINAL")
    return int(days)


async def test_one_process_counts_and_the_next_one_takes_over(lab: Lab, log: StoredLog) -> None:
    settings = with_key(lab.settings)
    async with leader_of(settings) as first, leader_of(settings) as second:
        await log.store(log.row())
        await first.count()
        assert await days_counted(lab) == 1
        await log.store(log.row(day=1))
        await second.count()
        assert await days_counted(lab) == 1, "the other one holds the lease"
        await first.lease.release()
        await second.count()
        assert await days_counted(lab) == 2
    assert await differences(lab.settings, lab.database) == []


async def test_a_process_that_loses_the_lease_stops_and_leaves_the_rest(lab: Lab, log: StoredLog) -> None:
    settings = with_key(lab.settings)
    await log.store(*(log.row(day=day) for day in range(3)))
    async with leader_of(settings) as losing, leader_of(settings) as winning:

        async def lose(name: str) -> None:
            if name == "published":
                await losing.lease.release()
                assert await winning.lease.take()

        losing._counter._reached = lose
        await losing.count()
        assert await days_counted(lab) == 1
        await winning.count()
        assert await days_counted(lab) == 3
    assert await differences(lab.settings, lab.database) == []


async def test_the_age_is_that_of_the_oldest_namespace(
    lab: Lab, log: StoredLog, caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_key(lab.settings, aggregates_stale_ms=3_600_000)
    await log.store(log.row())
    await count_once(lab.settings)
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    await lab.database.command(
        "INSERT INTO learning_configs SELECT 'shop', 'r', 1, config, {at:DateTime64(3)} FROM learning_configs LIMIT 1",
        {"at": long_ago},
    )
    async with leader_of(settings) as other, leader_of(settings) as leader:
        await other.lease.take()
        await leader.count()
        assert LEARNING_COUNTS_AGE._value.get() == pytest.approx(7_200, abs=300)
        assert "s old (TALLY_AGGREGATES_STALE_MS=3600000)" in caplog.text
        await other.lease.release()
        await leader.count()
        assert LEARNING_COUNTS_AGE._value.get() < 300


async def test_superseded_counts_are_deleted_from_time_to_time(
    lab: Lab, log: StoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = []

    async def delete(*_: object) -> None:
        deleted.append(1)

    monkeypatch.setattr(count_leader, "KEEP_SUPERSEDED_S", 0)
    monkeypatch.setattr(count_leader, "delete_superseded", delete)
    async with leader_of(with_key(lab.settings)) as leader:
        await leader.count()
    assert deleted == [1]


async def test_an_api_process_counts_events_of_workers_and_their_deletion(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the topic to the counts, with stored events only: duplicates and deleted events do not count."""
    monkeypatch.setattr(count_leader, "PAUSES_PER_LOOK", 0)  # on a busy machine a look takes seconds
    await Configurations(lab.database).put(context_features=[])
    settings = with_key(lab.settings, aggregates_every_ms=50)
    before = LEARNING_DAYS_COUNTED._value.get()
    fields = {"retriever_id": RETRIEVER, "feature_uri": "text"}
    receipts = await lab.emit(click(**fields), click(**fields), click("doc-2", **fields), click("doc-3", **fields))
    await lab.drain()
    gone = Deletion(receipts[-1].interaction_id, NAMESPACE)

    async def has_results(count: int) -> bool:
        return [row[-1] for row in await rows_in_force(lab.database)] == [count]

    async with api_of(settings, "reader"):
        await eventually_async(lambda: has_results(3))
        await Deletions(lab.database).note(gone)
        await Deletions(lab.database).erase([gone])
        await eventually_async(lambda: has_results(2))
    shapes = {RETRIEVER: CountShape(False, ())}
    since = datetime(2000, 1, 1, tzinfo=UTC)
    assert await rows_in_force(lab.database) == await counted_from_scratch(lab.database, shapes, since)
    assert LEARNING_DAYS_COUNTED._value.get() > before


@pytest.mark.usefixtures("log")
async def test_the_age_grows_while_nothing_is_counted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count_leader, "AGE_EVERY_S", 0.05)
    LEARNING_COUNTS_AGE.set(0)
    async with api_of(with_key(lab.settings, aggregates_every_ms=86_400_000), "reader"):

        async def is_known() -> bool:
            return bool(LEARNING_COUNTS_AGE._value.get() > 0)

        await eventually_async(is_known)


async def test_processes_without_configurations_leave_the_lease(lab: Lab) -> None:
    async with leader_of(with_key(lab.settings)) as idle, leader_of(with_key(lab.settings)) as other:
        await idle.count()
        assert await other.lease.take()
        assert LEARNING_COUNTS_AGE._value.get() == 0


async def test_two_processes_count_at_a_time_without_harm(lab: Lab, log: StoredLog) -> None:
    """As while Redis is away."""
    short = lab.settings.model_copy(update={"aggregates_days_per_round": 2})
    await log.store(*(log.row(f"doc-{number}", day=number % 7) for number in range(40)))
    await asyncio.gather(*(count_once(short) for _ in range(3)))
    assert await differences(lab.settings, lab.database) == []
    assert len(await rows_in_force(lab.database)) == 7
