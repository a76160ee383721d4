"""Replay: the same log gives the same answers, in an empty store and in part; and it is the way back from a mistake."""

import asyncio
import itertools
import random
from datetime import datetime
from typing import Any

import pytest

from consumers.worker import Worker
from producers.simulator import Simulator
from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime.clickhouse import connect
from runtime.errors import SettingsError, TallyError
from tally.replay import Comparison, opened
from tests.chaos.traffic import WINDOW_MS, Traffic
from tests.chaos.verify import recorded_outcomes
from tests.lab import Lab, click
from tests.waiting import eventually_async


async def everything(lab: Lab, count: int = 400) -> None:
    """Traffic of all kinds, drained in batches."""
    lab.settings = lab.settings.model_copy(update={"dedup_window_ms": WINDOW_MS, "accept_rejects": True})
    traffic = Traffic(random.Random(7))
    for _ in range(count):
        raw = traffic.record()
        await lab.put(raw.value, key=raw.key, headers=raw.headers)
    await lab.drain(batch_rows=60)


async def replayed(
    lab: Lab, since: datetime | None = None, until: datetime | None = None, *, swap: bool = False
) -> Comparison:
    async with opened(lab.settings, into(lab)) as work:
        await work.prepare(since, until)
        await work.judge()
        found = await work.compare()
        if swap:
            await work.swap()
        return found


def into(lab: Lab) -> str:
    return f"{lab.settings.database}_again"


@pytest.fixture(autouse=True)
async def _drop(lab: Lab) -> Any:
    yield
    await lab.database.command(f"DROP DATABASE IF EXISTS {into(lab)}")


async def test_a_whole_topic_into_an_empty_store_gives_what_is_stored(lab: Lab) -> None:
    await everything(lab)
    letters = len(await lab.letters())
    found = await replayed(lab)
    assert (found.same, found.changed) == (400, 0)
    again = lab.settings.model_copy(update={"database": into(lab)})
    async with connect(again) as database:
        live, _ = await recorded_outcomes(lab.database, lab.settings.topic)
        assert live == (await recorded_outcomes(database, lab.settings.topic))[0]
        assert len({outcome.split()[0] for outcome in live.values()}) == 3
    assert len(await lab.letters()) == letters, "the letters are there already"


async def test_part_of_a_topic_finds_the_owners_before_it(lab: Lab) -> None:
    await everything(lab)
    ((middle,),) = await lab.rows("SELECT quantileExact(0.5)(timestamp) FROM interactions")
    found = await replayed(lab, middle)
    assert found.changed == 0
    assert 0 < found.same < 400
    async with connect(lab.settings.model_copy(update={"database": into(lab)})) as database:
        assert (await recorded_outcomes(lab.database, lab.settings.topic))[0] == (
            await recorded_outcomes(database, lab.settings.topic)
        )[0]


async def test_the_way_back_from_a_bad_deploy(lab: Lab) -> None:
    """Events were judged wrongly, others are lost; after the swap all is right, and live events meet right owners."""
    traffic = list(itertools.islice(iter(Simulator(31, duplicates=0.2)), 500))
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


async def test_no_swap_while_workers_run(lab: Lab) -> None:
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


async def test_not_into_itself(lab: Lab) -> None:
    with pytest.raises(SettingsError, match="--into"):
        async with opened(lab.settings, lab.settings.database):
            pass
