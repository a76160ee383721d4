"""Records that cannot be stored wait, or become dead letters with a reason. Other records are unaffected."""

import asyncio
import itertools

import pytest
from aiokafka.admin import NewPartitions

from runtime import kafka
from runtime.errors import Fatal, Unavailable
from runtime.redis import Redis
from schemas import letter
from schemas.identity import mint_id
from tests.crashes import at_failpoint
from tests.lab import Lab, as_json, click, executions_on

NARROWED = "ALTER TABLE interactions MODIFY COLUMN metadata FixedString(10)"
"""Change of the table by an operator: it then refuses rows that the model allows."""
LONG = {"longer": "than that"}


async def test_a_partition_waits_at_a_newer_schema_and_the_others_continue(lab: Lab) -> None:
    executions = [list(itertools.islice(executions_on(partition), 2)) for partition in (0, 1)]
    for partition, (before, _) in enumerate(executions):
        await lab.put(as_json("before", before), partition=partition)
    await lab.put(as_json("newer"), headers=[("tally-schema", b"3")], partition=0)
    for partition, (_, after) in enumerate(executions):
        await lab.put(as_json("after", after), partition=partition)
    with pytest.raises(Fatal, match=r"newer schema wait: \S+/0 at offset 1; upgrade this worker"):
        await lab.drain()
    rows = await lab.rows("SELECT feature_id, _partition FROM interactions ORDER BY feature_id, _partition")
    assert rows == [("after", 1), ("before", 0), ("before", 1)]
    assert await lab.count("outcomes") == 0


async def test_rows_that_the_table_refuses_become_letters_and_own_nothing(lab: Lab) -> None:
    """Duplicates of a refused event are decided again without it; events before it are stored once."""
    await lab.database.command(NARROWED)
    emitted = [
        click("a"),
        click("b", metadata=LONG),
        click("b"),
        click("b", position=2),
        *(click(f"doc-{number}") for number in range(50)),
        click("c", None, metadata=LONG),
        click("d"),
    ]
    receipts = await lab.emit(*emitted)
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates, counts.rejected) == (53, 1, 2)
    assert await lab.count("interactions") == 53
    rows = await lab.rows("SELECT interaction_id, duplicate_of, reason FROM outcomes ORDER BY interaction_id")
    assert rows == [
        (receipts[1].interaction_id, "", "refused_by_table"),
        (receipts[3].interaction_id, receipts[2].interaction_id, "same_key"),
        (receipts[54].interaction_id, "", "refused_by_table"),
    ]
    origins = {dict(each.headers)[letter.OFFSET] for each in await lab.letters()}
    assert origins == {str(receipts[at].offset).encode() for at in (1, 54)}


async def test_a_table_that_refuses_everything_trips_the_fuse_and_stops_no_other_event(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    await lab.database.command(NARROWED)
    await lab.emit(*(click(f"doc-{number}", metadata=LONG) for number in range(30)), click("short"))
    counts = await lab.drain(reject_window=20)
    assert (counts.stored, counts.rejected, len(await lab.letters())) == (1, 30, 30)
    (tripped,) = (each.getMessage() for each in caplog.records if "fuse tripped" in each.getMessage())
    assert "namespace 'default'" in tripped
    assert "refused_by_table" in tripped


async def test_a_repeated_id_no_longer_owns_a_key(lab: Lab) -> None:
    """The repeated id owned a key at first: the first event with that id was a duplicate then.

    Once the table refuses the owner of that duplicate, the first event is stored, and the repeated id is a duplicate.
    """
    await lab.database.command(NARROWED)
    first, second = mint_id(), mint_id()
    one, other = itertools.islice(executions_on(0), 2)
    for execution, interaction_id, metadata in (
        (one, second, LONG),
        (one, first, None),
        (other, first, None),
        (other, mint_id(), None),
    ):
        await lab.put(as_json(execution=execution, interaction_id=interaction_id, metadata=metadata), partition=0)
    counts = await lab.drain()
    assert (counts.stored, counts.duplicates, counts.rejected) == (2, 1, 1)
    assert await lab.rows("SELECT _offset FROM interactions ORDER BY _offset") == [(1,), (3,)]
    assert await lab.rows("SELECT _offset, reason FROM outcomes ORDER BY _offset") == [
        (0, "refused_by_table"),
        (2, "same_id"),
    ]


async def test_batches_after_a_failed_batch_are_not_started(lab: Lab, redis: Redis) -> None:
    """The next batch waits for its claims to be rebuilt while this one fails: nothing after it may be committed."""
    await lab.database.command(NARROWED)
    for number, execution in zip(range(20), executions_on(0), strict=False):
        metadata = LONG if number == 2 else None
        await lab.put(as_json(execution=execution, metadata=metadata), partition=0)
    examined = 0
    is_refused = asyncio.Event()

    async def fail_when_refused(name: str) -> None:
        nonlocal examined
        examined += name == "resumed"
        if name == "resumed" and examined == 2:
            await is_refused.wait()
        if name == "refused":
            await redis.flushdb()
            is_refused.set()
            for _ in range(100):  # lets the next batch reach the point where it waits for this one
                await asyncio.sleep(0)
            raise Unavailable("any error")

    with at_failpoint(fail_when_refused), pytest.raises(Unavailable):
        await lab.drain(batch_rows=10)
    assert examined == 2
    counts = await lab.drain()
    assert (counts.stored + counts.already_recorded, counts.rejected) == (19, 1)
    assert await lab.count("interactions") == 19


async def test_a_changed_partition_count_is_fatal(lab: Lab) -> None:
    await lab.emit(click())
    await lab.drain()
    async with kafka.admin(lab.settings) as admin:
        await admin.create_partitions({lab.settings.topic: NewPartitions(6)})
    with pytest.raises(Fatal, match="has 6 partitions and had 4"):
        await lab.drain()
