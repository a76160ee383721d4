"""Search for events of every outcome, the newest first.

Queries find places, each from one table and by one indexed column, in the order of the tables' key. The events at these
places are read by id. A cursor is the last event of a page, so concurrent writes do not shift pages.
"""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from readers.event_conditions import DELETED_COLUMNS, OUTCOME_COLUMNS, EventFilter, matches
from readers.event_models import EventQuery, EventVerdict
from readers.event_rows import EventPlace, EventRows
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.errors import StatementTimeout
from runtime.settings import Settings
from schemas.tables import DELETIONS, INTERACTIONS, OUTCOMES

_KEY = "interaction_id, _topic, _partition, _offset"
_NEWEST_FIRST = "interaction_id DESC, _topic DESC, _partition DESC, _offset DESC"
_NOT_STORED: tuple[EventVerdict, ...] = ("duplicate", "rejected", "moved", "deleted")


class EventSearch(NamedTuple):
    """Conditions of a search in one namespace. Times are append times."""

    namespace: str
    filters: EventFilter
    since: datetime | None
    until: datetime | None

    @classmethod
    def of(cls, namespace: str, query: EventQuery) -> "EventSearch":
        """Make the search of a request."""
        filters = EventFilter.of(query.verdicts, query.model_dump(), query.any_id)
        return cls(namespace, filters, query.since, query.until)

    def statements(self, after: EventPlace | None, most: int, bind: BoundParameters) -> list[str]:
        """Return selects of places with their verdicts, which together find the newest `most` places."""
        found = []
        for each in self.filters.alternatives():
            if conditions := _stored_conditions(each, bind):
                more = self._shared(after, bind)
                found.append(_select(INTERACTIONS, "if(is_deleted, 'deleted', 'stored')", [*more, *conditions], most))
            if each.with_verdicts(*_NOT_STORED).verdicts and each.columns <= set(OUTCOME_COLUMNS):
                gone = self._is_deleted(bind)
                verdict = f"if(verdict != 'moved' AND {gone}, 'deleted', toString(verdict))"
                conditions = [*_outcome_conditions(each, bind, verdict, gone), *self._shared(after, bind)]
                found.append(_select(OUTCOMES, verdict, conditions, most))
        return found

    def notes(self) -> list[str]:
        """Return what this search cannot find."""
        found = []
        outcomes = self.filters.with_verdicts("duplicate", "rejected", "moved").verdicts
        if unknown := sorted(self.filters.columns - set(OUTCOME_COLUMNS)) if outcomes else []:
            found.append(
                f"duplicates, rejections and moves are not found by {', '.join(unknown)}: only their ids, user and "
                "execution are kept"
            )
        if self.filters.any_id is not None and outcomes:
            found.append("duplicates, rejections and moves are not found by a session_id, which is not kept of them")
        if "deleted" in self.filters.verdicts and (hidden := sorted(self.filters.columns - set(DELETED_COLUMNS))):
            found.append(f"deleted events are not found by {', '.join(hidden)}: a deletion erases it")
        return found

    def _shared(self, after: EventPlace | None, bind: BoundParameters) -> list[str]:
        conditions = [f"namespace = {bind.bind(self.namespace, 'String')}"]
        if self.since is not None:
            conditions.append(f"timestamp >= {bind.bind(self.since, 'Int64')}")
        if self.until is not None:
            conditions.append(f"timestamp < {bind.bind(self.until, 'Int64')}")
        if after is not None:
            last = bind.bind(after.interaction_id, "String")
            rest = f"{bind.bind(after.topic, 'String')}, {bind.bind(after.partition, 'UInt32')}"
            place = f"({last}, {rest}, {bind.bind(after.offset, 'UInt64')})"
            conditions.append(f"interaction_id <= {last} AND ({_KEY}) < {place}")
        return conditions

    def _is_deleted(self, bind: BoundParameters) -> str:
        space = bind.bind(self.namespace, "String")
        return f"interaction_id IN (SELECT interaction_id FROM {DELETIONS} WHERE namespace = {space})"


def _stored_conditions(each: EventFilter, bind: BoundParameters) -> list[str]:
    """Return the conditions on rows of `interactions`; none if no row can match."""
    states = {"stored": 0, "deleted": 1} if each.columns <= set(DELETED_COLUMNS) else {"stored": 0}
    wanted = [str(states[name]) for name in each.verdicts if name in states]
    return [f"is_deleted IN ({', '.join(wanted)})", *matches(each.texts, bind)] if wanted else []


def _outcome_conditions(each: EventFilter, bind: BoundParameters, verdict: str, gone: str) -> list[str]:
    wanted = bind.bind(list(each.with_verdicts(*_NOT_STORED).verdicts), "Array(String)")
    hidden = [] if each.columns <= set(DELETED_COLUMNS) else [f"NOT {gone}"]
    return [f"has({wanted}, {verdict})", *hidden, *matches(each.texts, bind)]


def _select(table: str, verdict: str, conditions: Sequence[str], most: int) -> str:
    """Select the newest places of a table. Of rows of one place the tombstone counts."""
    tombstone_first = ", is_deleted DESC" if table == INTERACTIONS else ""
    return (
        f"SELECT {_KEY}, {verdict} AS found, '{table}' AS source FROM {table} WHERE {' AND '.join(conditions)} "
        f"ORDER BY {_NEWEST_FIRST}{tombstone_first} LIMIT 1 BY {_KEY} LIMIT {most:d}"
    )


class _Candidate(NamedTuple):
    place: EventPlace
    verdict: str
    is_stored: bool


class EventPages:
    """Pages of a search. Raises Unavailable and StatementTimeout."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._database = database
        self._rows = EventRows(settings, database)
        self._timeout_s = settings.list_timeout_ms / 1000

    async def page(
        self, search: EventSearch, size: int, after: EventPlace | None
    ) -> tuple[list[dict[str, Any]], EventPlace | None]:
        """Return the next `size` events after a place, and the place to continue after; None at the end."""
        deadline = time.monotonic() + self._timeout_s
        found: list[tuple[EventPlace, dict[str, Any]]] = []
        while True:
            wanted = size + 1 - len(found)
            candidates = await self._candidates(search, wanted, after)
            found += await self._events(search.namespace, candidates)
            if len(candidates) < wanted or len(found) > size:
                break
            if time.monotonic() > deadline:
                raise StatementTimeout("a search of events exceeded its time limit")
            after = candidates[-1].place  # some were deleted meanwhile, and further ones may be
        shown = found[:size]
        return [event for _, event in shown], shown[-1][0] if len(found) > size else None

    async def _candidates(self, search: EventSearch, most: int, after: EventPlace | None) -> list[_Candidate]:
        bind = BoundParameters()
        statements = search.statements(after, most, bind)
        if not statements:
            return []
        sql = " UNION ALL ".join(f"SELECT * FROM ({each})" for each in statements)
        rows = await self._database.rows(sql, bind.values, limits={"max_execution_time": self._timeout_s})
        by_place: dict[EventPlace, _Candidate] = {}
        for *place, verdict, source in rows:
            each = _Candidate(EventPlace(*place), verdict, source == INTERACTIONS)
            if each.place not in by_place or verdict == "deleted":
                by_place[each.place] = each
        return sorted(by_place.values(), reverse=True)[:most]

    async def _events(
        self, namespace: str, candidates: Sequence[_Candidate]
    ) -> list[tuple[EventPlace, dict[str, Any]]]:
        """Return the events of candidates in their order, without those whose verdict has changed."""
        stored = [each.place.interaction_id for each in candidates if each.is_stored]
        others = [each.place.interaction_id for each in candidates if not each.is_stored]
        interactions, outcomes = await asyncio.gather(
            self._rows.read(namespace, stored, outcomes=False), self._rows.read(namespace, others, stored=False)
        )
        rows = [(each, (interactions if each.is_stored else outcomes).get(each.place)) for each in candidates]
        return [(each.place, event) for each, event in rows if event is not None and event["verdict"] == each.verdict]
