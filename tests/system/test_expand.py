"""`tally topic expand` adds partitions under load; verdicts are those of a topic that always had them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from consumers.supervised import supervised_workers
from producers.open_bandit import read_log
from producers.partitions import partition_of
from producers.producer import Producer
from producers.simulation.simulator import Simulator
from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime import kafka
from runtime.errors import SettingsError, TallyError, Unavailable
from runtime.expansions import Expansion, Expansions
from runtime.redis import connect_redis
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from schemas.interaction import Interaction
from tally import expand
from tally.dead_letters.reading import Selection
from tally.dead_letters.replay import replay
from tally.expand import Expand
from tests.cluster_lab import running_children
from tests.lab import Lab, as_json, click
from tests.system.test_cluster import poll
from tests.waiting import eventually_async

WAIT_S = 60


@pytest.fixture
def lab(lab: Lab) -> Lab:
    """Producers give up soon, so that an expansion settles soon."""
    lab.settings = lab.settings.model_copy(update={"delivery_timeout_ms": 1_000})
    return lab


def to(settings: Settings, partitions: int, drain_timeout_s: float = WAIT_S) -> Expand:
    """An expansion to this partition count."""
    return Expand(settings, partitions, drain_timeout_s=drain_timeout_s, say=lambda _line: None)


@asynccontextmanager
async def workers(settings: Settings, folder: Path) -> AsyncIterator[None]:
    """Two of them, started again when they end."""
    with running_children() as children:
        running = supervised_workers(children, settings, workers=2, instance_prefix="w", log_dir=folder)
        running.start()
        looking_after = asyncio.create_task(poll(running))
        try:
            yield
        finally:
            await cancel_and_wait(looking_after)
            running.stop()


class EmitCounts(NamedTuple):
    """Numbers of accepted events and of first refusals."""

    accepted: int
    held: int


async def emitted(settings: Settings, events: Iterable[Interaction], until: asyncio.Event | None = None) -> EmitCounts:
    """Emit one after another, each until it is accepted."""
    accepted = held = 0
    async with Producer(settings) as producer:
        for event in events:
            if until is not None and until.is_set():
                break
            while True:
                try:
                    await producer.emit(event)
                    accepted += 1
                    break
                except Unavailable:
                    held += 1
                    await asyncio.sleep(0.05)
    return EmitCounts(accepted, held)


async def until_settled(lab: Lab) -> None:
    """Every event has its outcome."""

    async def is_settled() -> bool:
        return sum([each.in_flight async for each in audit(lab.settings, lab.database)]) == 0

    await eventually_async(is_settled, WAIT_S)


async def test_an_expansion_under_load_loses_nothing_and_finds_duplicates(lab: Lab, tmp_path: Path) -> None:
    # An event without an execution has no deduplication key: its repeat would be stored.
    traffic = (event for event in Simulator(61, duplicates=0) if event.execution_id)
    before, is_over = list(itertools.islice(traffic, 300)), asyncio.Event()
    imported = list(itertools.islice(read_log("random", "all", lab.settings.namespace), 200))
    await lab.emit_all(before)
    await lab.emit_all(imported)
    async with workers(lab.settings, tmp_path):
        loading = asyncio.create_task(emitted(lab.settings, traffic, is_over))
        assert await to(lab.settings, 8).run() == 4
        is_over.set()
        during = await loading
        assert during.held > 0, "producers were held"
        await until_settled(lab)
        stored = await lab.count("interactions")
        assert stored == 500 + during.accepted
        await emitted(lab.settings, before)
        await lab.emit_all(imported)
        await until_settled(lab)
        assert await lab.count("interactions") == stored, "all of it came before"
        ((new_partitions,),) = await lab.rows("SELECT uniqExact(_partition) FROM outcomes WHERE _partition >= 4")
        assert new_partitions == 4
    async with connect_redis(lab.settings) as redis:
        for key in await redis.keys(f"{lab.settings.key_prefix}*"):
            await redis.delete(key)
    await emitted(lab.settings, before)
    await lab.drain()
    assert await lab.count("interactions") == stored, "claims are rebuilt from where the keys lay before"
    parts = [each async for each in audit(lab.settings, lab.database)]
    assert len(parts) == 8
    assert all(each.balances for each in parts), parts
    deep = await deep_audit(lab.settings, lab.database)
    assert deep.balances, deep


async def test_an_expansion_without_workers_fails_and_releases_the_topic(lab: Lab) -> None:
    await lab.emit(click())
    with pytest.raises(Unavailable, match="1 records were not committed within 1 s"):
        await to(lab.settings, 8, drain_timeout_s=1).run()
    assert (await emitted(lab.settings, [click("again")])).held == 0, "released"
    async with kafka.admin(lab.settings) as admin:
        assert len(await kafka.partition_numbers(admin, lab.settings.topic)) == 4


async def test_an_interrupted_expansion_continues(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.emit(click())
    await lab.drain()

    async def fail(*_arguments: object) -> None:
        raise Unavailable("as if the broker were gone")

    with monkeypatch.context() as patched, pytest.raises(Unavailable, match="as if"):
        patched.setattr(expand, "add_partitions", fail)
        await to(lab.settings, 8).run()
    with pytest.raises(Unavailable, match="it is being expanded"):
        async with Producer(lab.settings) as producer:
            await producer.emit(click("held"))
    assert await to(lab.settings, 8).run() == 4
    assert (await emitted(lab.settings, [click()])).held == 0
    assert (await lab.drain()).duplicates == 1
    assert await to(lab.settings, 8).run() == 4, "again: nothing to do"


async def test_an_impossible_expansion_is_refused(lab: Lab) -> None:
    for wrong in (2, 4, 6):
        with pytest.raises(SettingsError, match="--partitions: the topic has 4, so 8 or another multiple"):
            await to(lab.settings, wrong).run()
    await to(lab.settings, 8).run()
    with pytest.raises(TallyError, match="expanded recently"):
        await to(lab.settings, 16).run()


def test_a_partition_inherits_from_earlier_partitions_of_its_keys() -> None:
    expansions = Expansions([Expansion(4, 8, [10, 11, 12, 13], 0), Expansion(8, 24, list(range(20, 28)), 1)])
    for number in range(2_000):
        key = b"key-%d" % number
        now, earlier = partition_of(key, 24), [partition_of(key, 8), partition_of(key, 4)]
        inherited = {each.partition for each in expansions.ancestors(now)}
        assert {each for each in earlier if each != now} <= inherited
        assert len(inherited) <= 2
    assert expansions.ancestors(3) == []
    assert [tuple(each) for each in expansions.ancestors(21)] == [(1, 11), (5, 25)]


async def test_misplaced_events_do_not_block_an_expansion_and_are_not_lost(lab: Lab, tmp_path: Path) -> None:
    """Workers cannot move them while the topic refuses records. Events placed by the old count are not moved."""
    executions = [f"exec-{number}" for number in range(40)]
    homes = {each: [partition_of(f"default:{each}".encode(), count) for count in (4, 8)] for each in executions}
    for execution in executions:
        await lab.put(as_json("before", execution))
    await lab.drain()
    for feature in ("before", "during"):
        for execution in executions:
            await lab.put(as_json(feature, execution), partition=(homes[execution][0] + 1) % 4)
    said: list[str] = []
    async with workers(lab.settings, tmp_path):
        await Expand(lab.settings, 8, drain_timeout_s=WAIT_S, say=said.append).run()
        ((not_moved,),) = await lab.rows("SELECT count() FROM outcomes FINAL WHERE reason = 'not_moved'")
        assert any("tally dlq replay --reason not_moved" in line for line in said) == bool(not_moved)
        async for done in replay(lab.settings, lab.database, Selection(reason="not_moved")):
            assert not done.failing
        for execution in executions:  # from a client that goes by the old number of partitions
            await lab.put(as_json("after", execution), partition=homes[execution][0])
        await until_settled(lab)
    stored = await lab.rows("SELECT feature_id, execution_id, _partition FROM interactions FINAL")
    assert len(stored) == 3 * len(executions)
    assert {(feature, execution) for feature, execution, _ in stored} == {
        (feature, execution) for feature in ("before", "during", "after") for execution in executions
    }
    for feature, execution, partition in stored:
        assert partition == homes[execution][1] or (feature, partition) in {
            ("before", homes[execution][0]),
            ("during", homes[execution][0]),
        }
    ((again,),) = await lab.rows("SELECT count() FROM outcomes FINAL WHERE verdict = 'duplicate'")
    assert again == len(executions), "those of before, wherever they were put"
    assert all([each.balances async for each in audit(lab.settings, lab.database)])
    deep = await deep_audit(lab.settings, lab.database)
    assert deep.balances, deep
