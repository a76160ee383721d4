"""The tables on a ClickHouse cluster: made of the single node's statements, and parsed by the engine.

There is no cluster to run them on: what they do on one is not proven here.
"""

import re

import pytest

from runtime.clickhouse import ClickHouse
from schemas.analytics.catalogue import views
from schemas.cluster import of_partition, on_cluster
from schemas.migrations import BOOTSTRAP, MIGRATIONS
from schemas.tables import INTERACTIONS, OUTCOMES, recompression_ttl
from tests.lab import Lab

STATEMENTS = [
    *BOOTSTRAP,
    *(statement for migration in MIGRATIONS for statement in migration.statements),
    *views().values(),
]
ON_ALL = [each for statement in STATEMENTS for each in on_cluster(statement, "events", "tally")]


async def parsed(database: ClickHouse, statement: str) -> str:
    """A statement as the engine writes it, having read it."""
    ((text,),) = await database.rows("SELECT formatQuery({statement:String})", {"statement": statement})
    return str(text)


async def test_the_engine_parses_the_cluster_statements(lab: Lab) -> None:
    texts = [await parsed(lab.database, statement) for statement in ON_ALL]
    assert all("ON CLUSTER events" in text or "ON CLUSTER 'events'" in text for text in texts), texts
    tables = [name for text in texts if (name := re.match(r"CREATE TABLE IF NOT EXISTS (\w+)", text))]
    names = {name[1] for name in tables}
    assert {name for name in names if name.endswith("_local")} == {f"{n}_local" for n in names if "_local" not in n}
    for text in texts:
        if text.startswith("CREATE TABLE") and "_local ON" in text and " AS " not in text.split("(", maxsplit=1)[0]:
            assert "ReplicatedReplacingMergeTree(" in text
            assert "non_replicated" not in text
    for change in (
        of_partition("MOVE PARTITION 202601", OUTCOMES, "outcomes_expiring", "events"),
        of_partition("DROP PARTITION 202601", OUTCOMES, None, "events"),
        of_partition(f"MODIFY TTL {recompression_ttl(30)}", INTERACTIONS, None, "events"),
    ):
        assert "_local ON CLUSTER" in await parsed(lab.database, change)


def test_every_column_reaches_both_tables() -> None:
    added = re.compile(r"(?:ADD COLUMN IF NOT EXISTS|MODIFY COLUMN) (\w+)")
    for statement in STATEMENTS:
        if columns := added.findall(statement):
            on_local, on_distributed = on_cluster(statement, "events", "tally")
            assert added.findall(on_local) == added.findall(on_distributed) == columns
            assert "INDEX" not in on_distributed


@pytest.mark.parametrize("table", [INTERACTIONS, OUTCOMES])
def test_rows_of_one_id_are_on_one_shard(table: str) -> None:
    """FINAL works on each shard alone: rows that collapse must be on one shard."""
    (distributed,) = [each for each in ON_ALL if each.startswith(f"CREATE TABLE IF NOT EXISTS {table} ")]
    assert distributed.endswith(f"ENGINE = Distributed('events', 'tally', '{table}_local', cityHash64(interaction_id))")


def test_an_unsupported_statement_is_refused() -> None:
    with pytest.raises(ValueError, match="RENAME"):
        on_cluster("RENAME TABLE a TO b", "events", "tally")
