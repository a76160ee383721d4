"""What cannot be stored, or not by this version: it waits or leaves with a reason, and nothing else suffers."""

import pytest
from aiokafka.admin import NewPartitions

from consumers.ceiling import TooManyRejects
from runtime import kafka
from runtime.errors import Fatal
from schemas import letter
from tests.lab import Lab, as_json, click

NARROWED = "ALTER TABLE interactions MODIFY COLUMN metadata FixedString(10)"
"""Somebody's change to the table, by which it refuses what the model allows."""
LONG = {"longer": "than that"}


async def test_a_partition_waits_at_a_newer_schema_and_the_others_go_on(lab: Lab) -> None:
    for partition in (0, 1):
        await lab.put(as_json(execution=f"before {partition}"), partition=partition)
    await lab.put(as_json(execution="newer"), headers=[("tally-schema", b"2")], partition=0)
    for partition in (0, 1):
        await lab.put(as_json(execution=f"after {partition}"), partition=partition)
    with pytest.raises(Fatal, match=r"newer schema .*{0: 1}; upgrade this consumer"):
        await lab.drain()
    rows = await lab.rows("SELECT execution_id FROM interactions ORDER BY execution_id")
    assert rows == [("after 1",), ("before 0",), ("before 1",)]
    assert await lab.count("outcomes") == 0


async def test_rows_that_the_table_refuses_become_letters_and_own_nothing(lab: Lab) -> None:
    """What was a duplicate of a refused event is judged again without it; what came before it is stored once."""
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
    assert origins == {b"%d" % receipts[1].offset, b"%d" % receipts[54].offset}


async def test_a_table_that_refuses_everything_stops_the_worker(lab: Lab) -> None:
    await lab.database.command(NARROWED)
    await lab.emit(*(click(f"doc-{number}", metadata=LONG) for number in range(30)))
    with pytest.raises(TooManyRejects, match="refused_by_table"):
        await lab.drain(reject_window=20)


async def test_another_number_of_partitions_is_fatal(lab: Lab) -> None:
    await lab.emit(click())
    await lab.drain()
    async with kafka.admin(lab.settings) as admin:
        await admin.create_partitions({lab.settings.topic: NewPartitions(6)})
    with pytest.raises(Fatal, match="has 6 partitions and had 4"):
        await lab.drain()
