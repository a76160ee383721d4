"""Replay: the same log gives the same outcomes, whole or in part, and repairs wrong ones."""

import asyncio
import itertools
import random
from datetime import datetime
from typing import Any

import pytest

from consumers.moves import Mover
from consumers.worker import Worker
from producers.partitions import partition_of
from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import SettingsError, TallyError
from runtime.migrate import migrate
from tally.comparison import Comparison
from tally.dead_letters.reading import Selection
from tally.dead_letters.replay import replay
from tally.replay import Replay
from tests.chaos.traffic import WINDOW_MS, Traffic
from tests.chaos.verify import recorded_outcomes
from tests.lab import Lab, as_json, click
from tests.traffic import keyed_traffic
from tests.waiting import eventually_async

HOME_PARTITION = partition_of(b"default:exec-1", 4)


async def everything(lab: Lab, count: int = 400) -> None:
    """Traffic of all kinds, drained in batches."""
    lab.settings = lab.settings.model_copy(update={"dedup_window_ms": WINDOW_MS})
    traffic = Traffic(random.Random(7))
    for _ in range(count):
        raw = traffic.record()
        await lab.put(**raw._asdict())
    await lab.drain(batch_rows=60)


async def replayed(
    lab: Lab, since: datetime | None = None, until: datetime | None = None, *, swap: bool = False
) -> Comparison:
    work = Replay(lab.settings, into(lab), lab.database)
    await work.prepare(since, until)
    await work.decide()
    found = await work.compare()
    if swap:
        await work.swap()
    return found


def into(lab: Lab) -> str:
    return f"{lab.settings.topic}_again"


@pytest.fixture(autouse=True)
async def _drop(lab: Lab) -> Any:
    yield
    await lab.database.command(f"DROP DATABASE IF EXISTS {into(lab)}")


async def test_a_replay_of_a_whole_topic_gives_the_same_outcomes(lab: Lab) -> None:
    await everything(lab)
    before = await lab.log_ends()
    found = await replayed(lab)
    assert (found.same, found.changed) == (sum(before), 0)
    assert await lab.log_ends() == before, "what was moved is not moved once more"
    again = lab.settings.model_copy(update={"database": into(lab)})
    async with connect(again) as database:
        live, _ = await recorded_outcomes(lab.database, lab.settings.topic)
        assert live == (await recorded_outcomes(database, lab.settings.topic))[0]
        assert len({outcome.split()[0] for outcome in live.values()}) == 4


async def test_a_replay_of_a_range_finds_the_owners_before_it(lab: Lab) -> None:
    await everything(lab)
    ((middle,),) = await lab.rows("SELECT quantileExact(0.5)(timestamp) FROM interactions")
    found = await replayed(lab, middle)
    assert found.changed == 0
    assert 0 < found.same < sum(await lab.log_ends())
    async with connect(lab.settings.model_copy(update={"database": into(lab)})) as database:
        assert (await recorded_outcomes(lab.database, lab.settings.topic))[0] == (
            await recorded_outcomes(database, lab.settings.topic)
        )[0]


async def test_a_replay_repairs_wrong_and_lost_outcomes(lab: Lab) -> None:
    """Some outcomes are wrong, others lost; after the swap all are correct, and live events find their owners."""
    traffic = list(itertools.islice(keyed_traffic(31, duplicates=0.2), 500))
    await lab.emit_all(traffic)
    await lab.drain()
    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset % 7 = 1 SETTINGS mutations_sync = 2")
    await lab.database.command(
        "INSERT INTO outcomes (namespace, interaction_id, _topic, _partition, _offset, verdict, reason, timestamp) "
        "SELECT namespace, interaction_id, _topic, _partition, _offset, 'rejected', 'too_large', timestamp "
        "FROM interactions WHERE _offset % 7 = 2"
    )
    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset % 7 = 2 SETTINGS mutations_sync = 2")
    found = await replayed(lab)
    assert found.changed > 20
    assert found.first
    assert {each.before.split()[0] if each.before else "" for each in found.first} == {"", "rejected"}

    found = await replayed(lab, swap=True)
    assert all([each.balances async for each in audit(lab.settings, lab.database)])
    assert (await deep_audit(lab.settings, lab.database)).balances
    await lab.emit_all(traffic)
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates) == (0, 500)


async def test_a_replay_continues_only_with_its_original_parameters(lab: Lab) -> None:
    """Another range, a second swap or a foreign database would destroy data."""
    await everything(lab, 100)
    stored = await lab.count("interactions")
    ((middle,),) = await lab.rows("SELECT quantileExact(0.5)(timestamp) FROM interactions")
    await replayed(lab)
    with pytest.raises(TallyError, match="from the beginning to the end"):
        await replayed(lab, None, middle, swap=True)
    await replayed(lab, swap=True)
    with pytest.raises(TallyError, match="was swapped in"):
        await replayed(lab, swap=True)
    await lab.database.command(f"DROP DATABASE {into(lab)}")
    await replayed(lab, swap=True)
    assert await lab.count("interactions") == stored
    await lab.database.command(f"DROP DATABASE {into(lab)}")
    await migrate(lab.settings.model_copy(update={"database": into(lab)}))
    with pytest.raises(TallyError, match="holds no replay"):
        await replayed(lab)


@pytest.mark.parametrize("exchanged", [0, 1, 3])
async def test_an_interrupted_swap_is_completed(lab: Lab, exchanged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await everything(lab, 100)
    before = await lab.rows("SELECT * FROM interactions FINAL ORDER BY ALL")
    real, left = ClickHouse.command, exchanged

    async def interrupted(self: ClickHouse, sql: str, parameters: Any = None) -> None:
        nonlocal left
        if "EXCHANGE" in sql:
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        await real(self, sql, parameters)

    monkeypatch.setattr(ClickHouse, "command", interrupted)
    if exchanged < 3:
        with pytest.raises(KeyboardInterrupt):
            await replayed(lab, swap=True)
    monkeypatch.undo()
    await replayed(lab, swap=True)
    assert await lab.rows("SELECT * FROM interactions FINAL ORDER BY ALL") == before
    uuids = await lab.rows("SELECT database FROM system.tables WHERE name = 'replay_state' AND total_rows > 0")
    assert (into(lab),) in uuids


async def test_replayed_letters_stay_marked_after_a_swap(lab: Lab) -> None:
    await lab.put(as_json("doc-1", "exec-1", position=-1), key=b"default:exec-1")
    await lab.drain()
    async for _ in replay(lab.settings, lab.database, Selection(), patch={"position": 0}):
        pass
    await lab.drain()
    marked = await lab.rows("SELECT replayed_as FROM outcomes FINAL WHERE verdict = 'rejected'")
    assert marked[0][0].startswith("int_")
    assert (await replayed(lab, swap=True)).changed == 0
    assert await lab.rows("SELECT replayed_as FROM outcomes FINAL WHERE verdict = 'rejected'") == marked


async def test_a_swap_is_refused_while_workers_run(lab: Lab) -> None:
    await lab.emit(click())
    worker = Worker(lab.settings, instance=None, until_caught_up=False)
    running = asyncio.create_task(worker.run())

    async def is_stored() -> bool:
        return await lab.count("interactions") == 1

    await eventually_async(is_stored)
    with pytest.raises(TallyError, match="stop the workers"):
        await replayed(lab, swap=True)
    worker.stop()
    await running


async def test_a_replay_into_its_own_database_is_refused(lab: Lab) -> None:
    with pytest.raises(SettingsError, match="--into"):
        Replay(lab.settings, lab.settings.database, lab.database)


async def test_misplaced_events_without_copies_are_decided_on_their_partition(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Misplaced events without copies are stored on their own partition again."""

    async def nothing(*_args: Any) -> None:
        return None

    monkeypatch.setattr(Mover, "set_apart", nothing)
    await everything(lab)
    monkeypatch.undo()
    before = await lab.log_ends()
    found = await replayed(lab)
    assert (found.same, found.changed) == (400, 0)
    assert await lab.log_ends() == before


async def test_lost_moves_are_found_by_their_copies(lab: Lab) -> None:
    for feature in ("a", "b"):
        await lab.put(as_json(feature), partition=(HOME_PARTITION + 1) % 4)
    await lab.drain()
    await lab.database.command("ALTER TABLE outcomes DELETE WHERE 1 SETTINGS mutations_sync = 2")
    found = await replayed(lab, swap=True)
    assert (found.same, found.changed) == (2, 2)
    assert all([each.balances async for each in audit(lab.settings, lab.database)])
    assert (await deep_audit(lab.settings, lab.database)).balances


async def test_a_replay_refuses_misplaced_events_not_yet_read_by_workers(lab: Lab) -> None:
    """A replay that moved such an event would leave it without a copy, or with two; it continues after the workers."""
    await lab.emit(click())
    await lab.drain()
    await lab.put(as_json(), partition=(HOME_PARTITION + 1) % 4)
    with pytest.raises(TallyError, match="have not read it yet"):
        await replayed(lab)
    await lab.drain()
    assert (await replayed(lab)).changed == 0
