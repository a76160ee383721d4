"""Translation of statements for one ClickHouse node into statements for a cluster.

A table `t` becomes `t_local`, replicated on the nodes of each shard, and a Distributed table `t` over it. Queries and
inserts stay as they are. Events are on shards by their id; small tables (keys, migrations, the ledger) are on the first
shard.
"""

import re
from collections.abc import Iterator

from schemas.tables import DELETIONS, EXPIRING, INTERACTIONS, OUTCOMES

_BY_ID = "cityHash64(interaction_id)"
SHARDED_BY = {INTERACTIONS: _BY_ID, OUTCOMES: _BY_ID, EXPIRING: _BY_ID, DELETIONS: _BY_ID}
ON_FIRST_SHARD = "0"

_PATH = "'/clickhouse/tables/{uuid}/{shard}', '{replica}'"
"""Path and replica name in the coordination service, of macros that every node defines; `uuid` is the engine's own."""

_CREATE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+) \(")
_CREATE_LIKE = re.compile(r"CREATE TABLE IF NOT EXISTS (\w+) AS (\w+)")
_VIEW = re.compile(r"CREATE OR REPLACE VIEW (\w+) AS")
_DROP_VIEW = re.compile(r"DROP VIEW IF EXISTS (\w+)")
_ALTER = re.compile(r"ALTER TABLE (\w+)\s")
_ENGINE = re.compile(r"ENGINE = ReplacingMergeTree(?:\(([^)]*)\))?")
_COLUMNS_ONLY = re.compile(r"(?:ADD COLUMN IF NOT EXISTS|MODIFY COLUMN) .*?(?=,\s*ADD |\Z)", re.DOTALL)


def local(table: str) -> str:
    """Return the name of the table with a node's own rows."""
    return f"{table}_local"


def on_cluster(statement: str, cluster: str, database: str) -> list[str]:
    """Translate a statement of the migrations; the result is run on one node of the cluster.

    Raises ValueError for a statement of an unknown form.
    """
    return list(_translated(statement.strip(), f"ON CLUSTER '{cluster}'", cluster, database))


def _translated(statement: str, everywhere: str, cluster: str, database: str) -> Iterator[str]:
    if found := _CREATE.match(statement):
        table = found[1]
        yield _replicated(statement).replace(found[0], f"CREATE TABLE IF NOT EXISTS {local(table)} {everywhere} (", 1)
        yield _distributed(table, everywhere, cluster, database)
    elif found := _CREATE_LIKE.match(statement):
        table, other = found.groups()
        yield f"CREATE TABLE IF NOT EXISTS {local(table)} {everywhere} AS {local(other)}"
        yield _distributed(table, everywhere, cluster, database)
    elif found := _VIEW.match(statement):
        yield statement.replace(found[0], f"CREATE OR REPLACE VIEW {found[1]} {everywhere} AS", 1)
    elif found := _DROP_VIEW.match(statement):
        yield f"{found[0]} {everywhere}"
    elif found := _ALTER.match(statement):
        table, change = found[1], statement[found.end() :]
        yield f"ALTER TABLE {local(table)} {everywhere} {_settings(change)}"
        # A Distributed table has no indexes and no settings of its own.
        if columns := _COLUMNS_ONLY.findall(change):
            yield f"ALTER TABLE {table} {everywhere} {', '.join(columns)}"
    else:
        raise ValueError(f"cannot translate this statement for a cluster: {statement[:80]}")


def _replicated(statement: str) -> str:
    def engine(found: re.Match[str]) -> str:
        return f"ENGINE = ReplicatedReplacingMergeTree({', '.join(filter(None, (_PATH, found[1])))})"

    return _settings(_ENGINE.sub(engine, statement, count=1))


def _settings(text: str) -> str:
    return text.replace("non_replicated_deduplication_window", "replicated_deduplication_window")


def _distributed(table: str, everywhere: str, cluster: str, database: str) -> str:
    sharded_by = SHARDED_BY.get(table, ON_FIRST_SHARD)
    return (
        f"CREATE TABLE IF NOT EXISTS {table} {everywhere} AS {local(table)} "
        f"ENGINE = Distributed('{cluster}', '{database}', '{local(table)}', {sharded_by})"
    )


def of_partition(change: str, table: str, target: str | None, cluster: str) -> str:
    """Write `ALTER TABLE table {change} [TO TABLE target]` for all shards of `cluster`, or for one node if it is ''."""
    name, everywhere = (local(table), f" ON CLUSTER '{cluster}'") if cluster else (table, "")
    into = f" TO TABLE {local(target) if cluster else target}" if target else ""
    return f"ALTER TABLE {name}{everywhere} {change}{into}"
