"""Lookup by id. Lookups that wait at the same moment share one query."""

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple

from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from schemas.tables import INTERACTIONS, OUTCOMES, PUBLIC_COLUMNS

IDS_PER_QUERY = 256
QUERIES_AT_ONCE = 2

# The newest version of a row wins, as FINAL would have it, without merging anything but these few rows. ClickHouse does
# not move conditions on the key to PREWHERE by itself: it would read every column of the blocks that it looks into.
_STORED = f"""
SELECT {", ".join(PUBLIC_COLUMNS)}, is_deleted FROM {INTERACTIONS}
PREWHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
ORDER BY version DESC, _topic, _partition, _offset LIMIT 1 BY interaction_id
"""
_NOT_STORED = f"""
SELECT interaction_id, toString(verdict), duplicate_of, reason, field, message, replayed_as FROM {OUTCOMES}
WHERE namespace = {{namespace:String}} AND interaction_id IN {{ids:Array(String)}}
ORDER BY _offset, replayed_as DESC LIMIT 1 BY interaction_id
"""


class Stored(NamedTuple):
    """The event is stored; `row` has the public columns."""

    row: dict[str, Any]


class DuplicateOf(NamedTuple):
    """The event repeats a stored one."""

    interaction_id: str


class RejectedFor(NamedTuple):
    """The event could never be valid."""

    reason: str
    field: str
    message: str
    replayed_as: str
    """The id under which it was put on the topic again; empty if it was not."""


Outcome = Stored | DuplicateOf | RejectedFor
_Key = tuple[str, str]


class Lookups:
    """Answers what became of an id, within one namespace."""

    def __init__(self, database: ClickHouse, max_waiting: int) -> None:
        self._database = database
        self._max_waiting = max_waiting
        self._waiting: dict[_Key, asyncio.Future[Outcome | None]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def get(self, namespace: str, interaction_id: str) -> Outcome | None:
        """The outcome of an event, or None when none is recorded.

        Raises Unavailable when ClickHouse does not answer or too many lookups wait already.
        """
        key = namespace, interaction_id
        future = self._waiting.get(key)
        if future is None:
            if len(self._waiting) >= self._max_waiting:
                raise Unavailable(f"{self._max_waiting} lookups wait already (TALLY_LOOKUP_IN_FLIGHT)")
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            if len(self._running) < QUERIES_AT_ONCE:
                self._running.add(asyncio.create_task(self._drain()))
        return await asyncio.shield(future)

    async def _drain(self) -> None:
        """Answer whoever waits, one query after another, until nobody does."""
        try:
            await self._answer_all()
        finally:  # at once: who asks in this very tick must not wait for a drain that has ended
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
            for interaction_id, future in asked.items():
                future.set_result(found.get(interaction_id))

    async def _query(self, namespace: str, ids: list[str]) -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        deleted: set[str] = set()
        for row in await self._database.rows(_STORED, {"namespace": namespace, "ids": ids}):
            *values, is_deleted = row
            stored = dict(zip(PUBLIC_COLUMNS, values, strict=True))
            if is_deleted:
                deleted.add(stored["interaction_id"])
            else:
                found[stored["interaction_id"]] = Stored(stored)
        missing = [wanted for wanted in ids if wanted not in found and wanted not in deleted]
        if missing:
            rows = await self._database.rows(_NOT_STORED, {"namespace": namespace, "ids": missing})
            found.update(_outcomes(rows))
        return found


def _outcomes(rows: Iterable[Any]) -> dict[str, Outcome]:
    return {
        interaction_id: DuplicateOf(duplicate_of) if verdict == "duplicate" else RejectedFor(*why)
        for interaction_id, verdict, duplicate_of, *why in rows
    }
