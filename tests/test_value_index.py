"""Bloom filters of user_id, session_id and execution_id: lists by them read the few marks that may match."""

import re

import pytest

from benchmarks.filled_rows import fill, id_of
from readers.filter_sql import where
from readers.filters import read_filters
from readers.listing import Listing, Order
from runtime.clickhouse import BoundParameters
from runtime.deletions import Deletion, Deletions
from schemas.migrations import MIGRATIONS
from schemas.tables import INDEXED_BY_VALUE, INTERACTIONS
from tests.lab import Lab
from tests.waiting import eventually_async

ROWS = 50_000
WANTED = 31_007


async def marks_read(lab: Lab, column: str) -> tuple[int, int]:
    """Marks that a list by the value of row WANTED reads, and all marks."""
    ((value,),) = await lab.rows(f"SELECT {column} FROM {INTERACTIONS} WHERE interaction_id = '{id_of(WANTED)}'")
    bind = BoundParameters()
    condition = where(read_filters({column: value}), bind)
    sql = f"EXPLAIN indexes = 1 SELECT interaction_id FROM {INTERACTIONS} WHERE {condition}"
    plan = "\n".join(line for (line,) in await lab.database.rows(sql, bind.values))
    read, of_all = re.findall(r"Granules: (\d+)/(\d+)", plan)[-1]
    return int(read), int(of_all)


@pytest.mark.parametrize("column", INDEXED_BY_VALUE)
async def test_a_list_by_a_value_reads_few_marks(lab: Lab, column: str) -> None:
    await fill(lab.database, 0, ROWS)
    read, of_all = await marks_read(lab, column)
    assert 1 <= read <= 5
    assert of_all >= ROWS // 1_024


async def test_rows_of_before_the_migration_are_indexed_in_the_background(lab: Lab) -> None:
    (migration,) = (each for each in MIGRATIONS if "bloom_filter" in each.statements[0])
    drop = ", ".join(f"DROP INDEX {column}_values" for column in INDEXED_BY_VALUE)
    await lab.database.command(f"ALTER TABLE {INTERACTIONS} {drop}")
    await fill(lab.database, 0, ROWS)
    for statement in migration.statements:
        await lab.database.command(statement)

    async def is_indexed() -> bool:
        found = [await marks_read(lab, column) for column in INDEXED_BY_VALUE]
        return all(read <= 5 < of_all for read, of_all in found)

    await eventually_async(is_indexed)


async def test_a_deleted_event_is_in_no_list_and_no_total_by_its_values(lab: Lab) -> None:
    """The tombstone has none of the values, and may be in a mark that the index excludes."""
    await fill(lab.database, 0, ROWS)
    ((user,),) = await lab.rows(f"SELECT user_id FROM {INTERACTIONS} WHERE interaction_id = '{id_of(WANTED)}'")
    listing = Listing(lab.database, 10_000, "default", [read_filters({"user_id": user})], Order())
    before = await listing.total()
    assert id_of(WANTED) in [row["interaction_id"] for row in (await listing.page(100, lambda _size: None)).rows]
    await Deletions(lab.database).erase([Deletion(id_of(WANTED), "default")])
    after = [row["interaction_id"] for row in (await listing.page(100, lambda _size: None)).rows]
    assert id_of(WANTED) not in after
    assert len(after) == await listing.total() == before - 1
