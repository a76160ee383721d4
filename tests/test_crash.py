"""Crashes, rebalances and cut inserts change nothing: the next run ends where an undisturbed one would have."""

import asyncio
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from hypothesis import given
from hypothesis import strategies as st

from consumers.native_format import block, texts, times
from consumers.sink import InsertRows, insert_token
from consumers.worker import Worker
from readers.overview import read_lag
from runtime import kafka
from runtime.clickhouse import EncodedRows
from runtime.errors import Fatal, Unavailable
from schemas import letter
from schemas.identity import derive_foreign_id
from tests.crashes import at_failpoint, crash_at
from tests.lab import Lab, as_json, click
from tests.test_backup import rewind
from tests.traffic import keyed_traffic
from tests.validating import events_at
from tests.waiting import DEADLINE_S, eventually_async


class State(NamedTuple):
    """The steps of which something can be seen in the stores."""

    stored: bool
    lettered: bool
    recorded: bool
    committed: bool


async def state_of(lab: Lab) -> State:
    """The steps that a worker came to."""
    committed = [each.committed for each in await read_lag(lab.settings)]
    return State(
        await lab.count("interactions") > 0, bool(await lab.letters()), await lab.count("outcomes") > 0, any(committed)
    )


@pytest.mark.parametrize(
    ("failpoint", "state"),
    [
        ("claimed", State(stored=False, lettered=False, recorded=False, committed=False)),
        ("stored", State(stored=True, lettered=False, recorded=False, committed=False)),
        ("lettered", State(stored=True, lettered=True, recorded=False, committed=False)),
        ("recorded", State(stored=True, lettered=True, recorded=True, committed=False)),
    ],
)
async def test_a_crash_between_any_two_steps_changes_nothing(lab: Lab, failpoint: str, state: State) -> None:
    """Each step of the batch is the last one of a run; the next run ends where an undisturbed one would have."""
    for partition in range(lab.settings.partitions):  # so that the partition that is read first has a letter
        await lab.put(b"not json", partition=partition)
    await lab.emit_all(itertools.islice(keyed_traffic(5, duplicates=0.3), 2_000))
    with crash_at(failpoint):
        await lab.drain(batch_rows=700)
    assert await state_of(lab) == state
    await lab.drain(batch_rows=500)

    stored, outcomes = await lab.count("interactions"), await lab.count("outcomes")
    assert stored + outcomes == 2_004
    raw = await lab.rows("SELECT count(), uniqExact(_partition, _offset) FROM interactions")
    assert raw == [(stored, stored)], "no row was inserted twice"
    raw = await lab.rows("SELECT count(), uniqExact(_partition, _offset) FROM outcomes")
    assert raw == [(outcomes, outcomes)]
    keys = await lab.rows("SELECT count(), uniqExact(execution_id, feature_id, interaction_type) FROM interactions")
    assert keys == [(stored, stored)], "each tuple once"
    origins = {
        (dict(each.headers)[letter.PARTITION], dict(each.headers)[letter.OFFSET]) for each in await lab.letters()
    }
    assert origins == {(b"%d" % partition, b"0") for partition in range(4)}, "written once or twice, it is one letter"


async def lose_commits(lab: Lab) -> None:
    """Set the group back to the start of the log, as if no commit of its had arrived."""
    assert any(each.committed for each in await read_lag(lab.settings)), "there was something to lose"
    await rewind(lab.settings, dict.fromkeys(range(lab.settings.partitions), 0))


async def test_stored_records_are_skipped_when_a_commit_was_lost(lab: Lab) -> None:
    await lab.emit_all(itertools.islice(keyed_traffic(6), 3_000))
    first = await lab.drain(batch_rows=400)
    await lose_commits(lab)
    second = await lab.drain(batch_rows=300)
    assert first.stored + first.duplicates == 3_000
    assert (second.stored, second.duplicates, second.already_recorded) == (0, 0, 3_000)


async def test_a_half_received_insert_is_completed(lab: Lab) -> None:
    """An insert is not atomic across blocks: holes below the highest stored offset must be filled."""
    receipts = await lab.emit_all(itertools.islice(keyed_traffic(7, duplicates=0), 1_000))
    await lab.drain()
    await lose_commits(lab)
    await lab.database.command("ALTER TABLE interactions DELETE WHERE _offset % 3 = 1 SETTINGS mutations_sync = 2")
    missing = 1_000 - await lab.count("interactions")
    counts = await lab.drain(batch_rows=128)
    assert counts.stored == missing > 100
    ids = {row[0] for row in await lab.rows("SELECT interaction_id FROM interactions")}
    assert ids == {receipt.interaction_id for receipt in receipts}


async def test_a_recreated_topic_is_not_mistaken_for_the_old_one(lab: Lab) -> None:
    old, _ = await lab.emit(click("a"), click("b"))
    await lab.drain()
    async with kafka.admin(lab.settings) as admin:
        await admin.delete_topics([lab.settings.topic])
    await _recreate_topic(lab)
    await lab.put(as_json("c"), partition=old.partition)
    with pytest.raises(Fatal, match="truncated or recreated"):
        await lab.drain(group=f"{lab.settings.group}-2")


async def _recreate_topic(lab: Lab) -> None:
    async def is_created() -> bool:
        try:
            await kafka.create_topics(lab.settings)
        except Fatal:
            return False  # the deletion is still under way
        return True

    await eventually_async(is_created)


async def test_records_that_expired_unread_are_fatal(lab: Lab) -> None:
    receipts = await lab.emit(*(click(f"doc-{number}") for number in range(10)))
    await lab.drain()
    await lab.emit(*(click(f"doc-{number}") for number in range(10, 20)))
    partition = TopicPartition(lab.settings.topic, receipts[0].partition)
    async with kafka.admin(lab.settings) as admin:
        await admin.delete_records({partition: RecordsToDelete(before_offset=15)})
    with pytest.raises(Fatal, match="5 offsets expired unread"):
        await lab.drain()


async def test_records_that_expire_under_a_running_worker_are_fatal(lab: Lab) -> None:
    """The client itself would continue at the log's start, and commit past the gap."""
    (first, *_) = await lab.emit(*(click(f"doc-{number}") for number in range(10)))
    place = TopicPartition(lab.settings.topic, first.partition)
    reading, may_continue = asyncio.Event(), asyncio.Event()

    async def rest(name: str) -> None:
        if name == "validated":
            reading.set()
            await may_continue.wait()

    worker = Worker(lab.settings, instance=None, until_caught_up=False)
    with at_failpoint(rest):
        running = asyncio.create_task(worker.run())
        await reading.wait()
        await lab.emit(*(click(f"doc-{number}") for number in range(10, 20)))
        async with kafka.admin(lab.settings) as admin:
            await admin.delete_records({place: RecordsToDelete(before_offset=15)})
        await lab.emit(*(click(f"doc-{number}") for number in range(20, 30)))
        assert worker._parts is not None
        worker._parts.consumer.seek(place, 10)  # the client may have fetched ahead: then nothing would be lost
        may_continue.set()
        with pytest.raises(Fatal, match="expired unread"):
            await asyncio.wait_for(running, DEADLINE_S)
    assert await lab.count("interactions") == 10, "those before the gap, and none after it"


async def test_rebalances_neither_lose_nor_double_events(lab: Lab) -> None:
    """Workers join and leave while events come in; each event is stored or a duplicate exactly once."""
    await lab.emit_all(itertools.islice(keyed_traffic(8, duplicates=0.2), 4_000))
    small = lab.settings.model_copy(update={"batch_rows": 50})
    workers = [Worker(small, instance=None, until_caught_up=False) for _ in range(3)]
    running = []
    for seed, worker in enumerate(workers, 100):
        running.append(asyncio.create_task(worker.run()))
        await lab.emit_all(itertools.islice(keyed_traffic(seed, duplicates=0.2), 500))
    workers[0].stop()
    await running[0]

    async def all_recorded() -> bool:
        return await lab.count("interactions") + await lab.count("outcomes") == 5_500

    await eventually_async(all_recorded)
    for worker in workers[1:]:
        worker.stop()
    counts = await asyncio.gather(*running)
    assert sum(each.stored + each.duplicates for each in counts) == 5_500
    raw = await lab.rows("SELECT count(), uniqExact(execution_id, feature_id, interaction_type) FROM interactions")
    assert raw[0][0] == raw[0][1] == sum(each.stored for each in counts)


async def test_a_worker_ends_at_its_stop_deadline(lab: Lab) -> None:
    await lab.emit(click())
    worker = Worker(lab.settings.model_copy(update={"stop_timeout_ms": 1_000}), instance=None, until_caught_up=False)

    async def hang(name: str) -> None:
        if name == "claimed":
            worker.stop()
            await asyncio.Event().wait()

    with at_failpoint(hang), pytest.raises(Unavailable, match="TALLY_STOP_TIMEOUT_MS=1000"):
        await worker.run()
    assert await lab.count("interactions") == 0
    assert (await lab.drain()).stored == 1


async def test_a_concurrent_commit_is_not_past_the_log_end(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that the group had expelled checks its partitions while its successor still commits."""
    place = TopicPartition(lab.settings.topic, 0)
    async with kafka.consumer(lab.settings, instance=None) as consumer:
        consumer.assign([place])
        committed = consumer.committed

        async def committed_a_moment_ago(asked: TopicPartition) -> Any:
            landed = await lab.put(b"{}", partition=0)
            await consumer.commit({place: landed.offset + 1})
            return await committed(asked)  # type: ignore[no-untyped-call]

        monkeypatch.setattr(consumer, "committed", committed_a_moment_ago)
        bounds = (await kafka.log_bounds(consumer, lab.settings.topic, [0], member=consumer))[0]
    assert bounds.committed == bounds.end == 1


places = st.builds(
    lambda partition, offset, mark: (partition, offset, derive_foreign_id("t", partition, offset, mark)),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 1),
)


@given(st.lists(places, max_size=4), st.lists(places, max_size=4))
def test_a_token_names_exactly_its_rows_in_their_order(
    one: list[tuple[int, int, str]], other: list[tuple[int, int, str]]
) -> None:
    """A batch cut differently after a crash must get another token, or its further rows are swallowed."""
    assert (insert_token("t", [events_at(one).places]) == insert_token("t", [events_at(other).places])) == (
        one == other
    )
    assert insert_token("t", [events_at(one).places]) != insert_token("u", [events_at(one).places])


async def test_a_token_by_first_offset_would_drop_rows(lab: Lab) -> None:
    """The table would mistake the longer insert for the shorter one before it."""
    for count in (1, 3):
        columns = {"interaction_id": texts(map(str, range(count))), "timestamp": times(np.zeros(count, np.int64))}
        encoded = InsertRows("t")
        encoded.add(block(columns, count), events_at([]).places)
        rows = encoded.encoded()
        await lab.database.insert("interactions", EncodedRows(rows.columns, rows.chunks, "partition 0 offset 0"))
    assert await lab.count("interactions") == 1
