"""Lookup by id. Simultaneous lookups share one query."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from runtime.tasks import cancel_and_wait, start
from schemas.fields import FieldKind, FieldSpec
from schemas.interaction import FIELDS
from schemas.outcome import Deleted, DuplicateOf, Moved, Outcome, RejectedFor, Stored
from schemas.tables import DELETIONS, INTERACTIONS, OUTCOMES, PUBLIC_COLUMNS

IDS_PER_QUERY = 128
"""Maximum ids of one query: their request line stays below 8 KiB, the limit of common proxies."""
QUERIES_AT_ONCE = 2

_ROWS_PER_QUERY = 4 * IDS_PER_QUERY

# ClickHouse does not move conditions on the key to PREWHERE itself, and would read every column of the blocks.
_STORED = f"""
SELECT {", ".join(PUBLIC_COLUMNS)}, is_deleted FROM {INTERACTIONS}
PREWHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
LIMIT {_ROWS_PER_QUERY}
"""
# The newest version of a row counts, as with FINAL, but only these few rows are merged. Reading the columns of the
# order costs a fifth of a lookup, so this query is for ids with several rows only: deleted, inserted again, or of
# foreign producers.
_NEWEST = f"""
SELECT {", ".join(PUBLIC_COLUMNS)}, is_deleted FROM {INTERACTIONS}
PREWHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
ORDER BY version DESC, _topic, _partition, _offset LIMIT 1 BY interaction_id
"""
_VISIBLE = f"""
SELECT interaction_id FROM {INTERACTIONS}
PREWHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
GROUP BY interaction_id HAVING argMax(is_deleted, version) = 0
"""
# The outcome of a copy (of a misplaced event, under its own id) takes precedence, once it exists.
_NOT_STORED = f"""
SELECT * FROM (
    SELECT interaction_id, toString(verdict), duplicate_of, reason, field, message, replayed_as,
        _copy_partition, _copy_offset
    FROM {OUTCOMES}
    WHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
    ORDER BY verdict = 'moved' OR replayed_as = interaction_id, _offset, replayed_as DESC LIMIT 1 BY interaction_id
) UNION ALL
SELECT interaction_id, 'deleted', '', '', '', '', '', 0 AS _copy_partition, 0 AS _copy_offset FROM {DELETIONS}
WHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
"""

# Times are ISO texts, as the API shows them.
_TYPES: Mapping[FieldKind, Any] = {
    "text": str, "types": list[str], "integer": int, "float": float, "object": str, "time": str
}  # fmt: skip


def _type_of(field: FieldSpec) -> Any:
    return _TYPES[field.kind] | None if field.nullable else _TYPES[field.kind]


_read_stored = msgspec.json.Decoder(tuple[(str, *map(_type_of, FIELDS), str, int)]).decode_lines  # type: ignore[misc]
_read_outcomes = msgspec.json.Decoder(tuple[str, str, str, str, str, str, str, int, int]).decode_lines

_Key = tuple[str, str]


class Lookups:
    """Lookups of outcomes by namespace and id, batched into few queries."""

    def __init__(self, database: ClickHouse, max_waiting: int) -> None:
        self._database = database
        self._max_waiting = max_waiting
        self._waiting: dict[_Key, asyncio.Future[Outcome | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def get(self, namespace: str, interaction_id: str) -> Outcome | None:
        """Return the outcome of an event, or None without one.

        Raises Unavailable when ClickHouse does not answer, or when too many lookups wait.
        """
        key = namespace, interaction_id
        future = self._waiting.get(key)
        if future is None:
            if len(self._waiting) >= self._max_waiting:
                raise Unavailable(f"{self._max_waiting} lookups are in flight (TALLY_LOOKUP_IN_FLIGHT)")
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            if len(self._running) < QUERIES_AT_ONCE:
                self._running.add(start(self._drain(), "looking ids up"))
        return await asyncio.shield(future)

    async def close(self) -> None:
        """Cancel running queries and the lookups that wait for them."""
        await cancel_and_wait(*self._running)
        for future in self._waiting.values():
            future.cancel()

    async def _drain(self) -> None:
        """Resolve waiting lookups, one query after another, until none waits."""
        try:
            await self._answer_all()
        finally:  # at once: a lookup of this same iteration must not wait for a drain that has ended
            self._running.discard(asyncio.current_task())

    async def _answer_all(self) -> None:
        while self._waiting:
            namespace = next(iter(self._waiting))[0]
            keys = [key for key in self._waiting if key[0] == namespace][:IDS_PER_QUERY]
            asked = {interaction_id: self._waiting.pop((space, interaction_id)) for space, interaction_id in keys}
            try:
                found = await self._query(namespace, list(asked))
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
                continue
            except asyncio.CancelledError:
                for future in asked.values():
                    future.cancel()
                raise
            for interaction_id, future in asked.items():
                future.set_result(found.get(interaction_id))

    async def _query(self, namespace: str, ids: list[str]) -> dict[str, Outcome]:
        found = await _read_rows(self._database, namespace, ids)
        if missing := [wanted for wanted in ids if wanted not in found]:
            rows = _read_outcomes(await self._database.fetch(_NOT_STORED, {"namespace": namespace, "ids": missing}))
            # A deletion overrides every other outcome, so it is applied last.
            found |= {row[0]: _outcome(row) for row in sorted(rows, key=lambda row: bool(row[1] == "deleted"))}
        return found


async def visible_ids(database: ClickHouse, namespace: str, ids: Sequence[str]) -> set[str]:
    """Return the ids that are stored and not deleted, without reading their records. Raises Unavailable."""
    rows = await database.rows(_VISIBLE, {"namespace": namespace, "ids": list(ids)}) if ids else ()
    return {interaction_id for (interaction_id,) in rows}


async def read_stored(database: ClickHouse, namespace: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the rows of ids that are stored and not deleted. Raises Unavailable."""
    found: dict[str, Outcome] = {}
    for start_at in range(0, len(ids), IDS_PER_QUERY):
        found |= await _read_rows(database, namespace, ids[start_at : start_at + IDS_PER_QUERY])
    return {interaction_id: each.row for interaction_id, each in found.items() if isinstance(each, Stored)}


async def _read_rows(database: ClickHouse, namespace: str, ids: Sequence[str]) -> dict[str, Outcome]:
    rows = _read_stored(await database.fetch(_STORED, {"namespace": namespace, "ids": ids}))
    found = {row[0]: row for row in rows}
    if len(found) < len(rows):
        several = list(ids) if len(rows) == _ROWS_PER_QUERY else _repeated(row[0] for row in rows)
        newest = _read_stored(await database.fetch(_NEWEST, {"namespace": namespace, "ids": several}))
        found = {row[0]: row for row in rows if row[0] not in several} | {row[0]: row for row in newest}
    return {interaction_id: _stored(row) for interaction_id, row in found.items()}


def _repeated(ids: Iterable[str]) -> list[str]:
    return [each for each, count in Counter(ids).items() if count > 1]


def _stored(values: Sequence[Any]) -> Outcome:
    return Deleted() if values[-1] else Stored(dict(zip(PUBLIC_COLUMNS, values, strict=False)))


def _outcome(row: Sequence[Any]) -> Outcome:
    _, verdict, duplicate_of, *why, copy_partition, copy_offset = row
    if verdict == "deleted":
        return Deleted()
    if verdict == "moved":
        return Moved(copy_partition, copy_offset)
    return DuplicateOf(duplicate_of) if verdict == "duplicate" else RejectedFor(*why)
