"""Deletions: the record of deleted events, and the erasure of their stored rows.

A deletion is recorded first and then applied to stored rows. The consumer works in the opposite order: it stores rows
first and then reads the recorded deletions. So whichever comes last sees the other (`consumers/erasure.py`).

A tombstone is a newer version of the row without its personal and result fields. It keeps the fields that the audit
and the deduplication rule need: the place in the log, the times, and the parts of the key.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runtime.clickhouse import ClickHouse
from schemas.tables import DELETIONS, ERASED_COLUMNS, INTERACTIONS, KEPT_COLUMNS, OUTCOMES

IDS_PER_STATEMENT = 2_000

_RECORD_DELETION = (
    f"INSERT INTO {DELETIONS} (namespace, interaction_id) SELECT {{namespace:String}}, {{interaction_id:String}}"
)
_IS_EVENT = "namespace = {namespace:String} AND interaction_id = {interaction_id:String}"
_RECORDED = (
    f"SELECT (SELECT count() FROM {INTERACTIONS} WHERE {_IS_EVENT}) + "
    f"(SELECT count() FROM {OUTCOMES} WHERE {_IS_EVENT} AND verdict != 'moved')"
)
_COLUMNS = ", ".join([*KEPT_COLUMNS, *ERASED_COLUMNS, "version", "is_deleted"])
_TOMBSTONE = ", ".join([*KEPT_COLUMNS, *ERASED_COLUMNS.values(), "1", "1"])
_ERASE = f"""
INSERT INTO {INTERACTIONS} ({_COLUMNS}) SELECT {_TOMBSTONE} FROM {INTERACTIONS}
PREWHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
WHERE is_deleted = 0
"""
_BETWEEN = f"""
SELECT interaction_id, namespace FROM {DELETIONS}
WHERE interaction_id >= {{lowest:String}} AND interaction_id < {{beyond:String}} LIMIT {{most:UInt64}}
"""
_AMONG = f"SELECT interaction_id, namespace FROM {DELETIONS} WHERE interaction_id IN {{ids:Array(String)}}"


def erasure_statement(database: str) -> str:
    """Return a statement that applies every recorded deletion of a database to its rows."""
    return (
        f"INSERT INTO {database}.{INTERACTIONS} ({_COLUMNS}) SELECT {_TOMBSTONE} FROM {database}.{INTERACTIONS} FINAL "
        f"WHERE (namespace, interaction_id) IN (SELECT namespace, interaction_id FROM {database}.{DELETIONS})"
    )


class Deletion(NamedTuple):
    """Event to delete."""

    interaction_id: str
    namespace: str


class Deletions:
    """Recorded deletions of one database. Every method raises Unavailable when ClickHouse does not answer."""

    def __init__(self, database: ClickHouse) -> None:
        self._database = database

    async def note(self, deletion: Deletion) -> None:
        """Record a deletion, also of an event that is still to be stored. Durable on return."""
        await self._database.command(_RECORD_DELETION, deletion._asdict())

    async def is_recorded(self, deletion: Deletion) -> bool:
        """Return whether the event has an outcome, that is, a row in one of the tables."""
        ((rows,),) = await self._database.rows(_RECORDED, deletion._asdict())
        return bool(rows)

    async def erase(self, deleted: Iterable[Deletion]) -> None:
        """Replace stored rows by tombstones. Safe to repeat."""
        by_namespace: dict[str, list[str]] = {}
        for each in deleted:
            by_namespace.setdefault(each.namespace, []).append(each.interaction_id)
        for namespace, ids in by_namespace.items():
            for start in range(0, len(ids), IDS_PER_STATEMENT):
                some = ids[start : start + IDS_PER_STATEMENT]
                await self._database.command(_ERASE, {"namespace": namespace, "ids": some})

    async def between(self, lowest_id: str, beyond_id: str, most: int) -> Sequence[Deletion]:
        """Return at most `most` deletions with ids from `lowest_id` up to, excluding, `beyond_id`."""
        where = {"lowest": lowest_id, "beyond": beyond_id, "most": most}
        return [Deletion(*row) for row in await self._database.rows(_BETWEEN, where)]

    async def among(self, ids: Sequence[str]) -> Sequence[Deletion]:
        """Return the deletions of these ids, in all namespaces."""
        found: list[Deletion] = []
        for start in range(0, len(ids), IDS_PER_STATEMENT):
            some = list(ids[start : start + IDS_PER_STATEMENT])
            found += [Deletion(*row) for row in await self._database.rows(_AMONG, {"ids": some})]
        return found
