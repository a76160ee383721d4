"""Lists: pages of records by filter, newest first or sorted.

First ids are looked for, reading only what the filter and the order need, in the order of the table's key where that is
the order of the list; then the records of one page are read by their ids, which also leaves out what was deleted. A
cursor is the place of a page's last record, so what is written meanwhile moves nothing.
"""

import base64
import binascii
import json
import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from readers.filter_fields import ALIASES, FILTER_FIELDS, FilterError, is_plain
from readers.filter_sql import TYPES, where
from readers.filters import Filter, Group
from readers.lookup import read_stored, visible_ids
from readers.parameters import Parameters
from runtime.clickhouse import ClickHouse
from runtime.errors import TookTooLong
from schemas.event_time import parse_occurred_at
from schemas.identity import is_interaction_id
from schemas.interaction import FIELDS, OBJECT_FIELDS
from schemas.tables import INTERACTIONS

CANDIDATES = 1_000
"""Ids that are looked for at a time, at most."""
RECORDS_TOGETHER = 250
ID = "interaction_id"
NEVER_NULL = {ID, "timestamp", *(field.name for field in FIELDS if field.required)}


class Order(NamedTuple):
    """By which field a list is sorted. Those of one value follow their ids, in the same direction; null comes last."""

    column: str = ID
    descending: bool = True

    @classmethod
    def by(cls, name: str, *, descending: bool) -> "Order":
        """The order by a field of this name. Raises FilterError."""
        column = ALIASES.get(name, name)
        if FILTER_FIELDS.get(column, "texts") == "texts":
            sortable = ", ".join(name for name, kind in FILTER_FIELDS.items() if kind != "texts")
            raise FilterError(["sort", "field"], f"{name[:100]!r} cannot be sorted by; known are {sortable}")
        return cls(column, descending)


class Place(NamedTuple):
    """Where a record stands in a list: its value of the field that is sorted by, and its id."""

    value: Any
    interaction_id: str


class Page(NamedTuple):
    """Some rows of a list, and the place to continue after, or None when nothing follows."""

    rows: Sequence[dict[str, Any]]
    next_place: Place | None


def write_cursor(order: Order, place: Place) -> str:
    """A place as text. It says nothing that its reader has not been shown, and is bound to no key."""
    value = place.value.isoformat() if isinstance(place.value, datetime) else place.value
    text = json.dumps([order.column, order.descending, value, place.interaction_id], ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def read_cursor(order: Order, text: str) -> Place:
    """The place that a cursor of the same order names. Raises FilterError."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        column, descending, value, interaction_id = json.loads(raw)
        if FILTER_FIELDS[column] == "time" and value is not None:
            value = parse_occurred_at(value)
        wanted = {"text": str, "number": int | float, "time": datetime}[FILTER_FIELDS[column]]
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        raise FilterError(["cursor"], "is no cursor of this API") from None
    if (column, descending) != order:
        raise FilterError(["cursor"], "is of a list in another order")
    if not (value is None or isinstance(value, wanted)) or isinstance(value, bool):
        raise FilterError(["cursor"], "is no cursor of this API")
    if (isinstance(value, str) and not is_plain(value)) or (isinstance(value, int | float) and not _is_in_range(value)):
        raise FilterError(["cursor"], "is no cursor of this API")
    if not isinstance(interaction_id, str) or not is_interaction_id(interaction_id):
        raise FilterError(["cursor"], "is no cursor of this API")
    return Place(value, interaction_id)


def _is_in_range(number: float) -> bool:
    """Whether a column of numbers may hold it: it is finite, and an integer has at most 64 bits."""
    return abs(number) < 2**63 if isinstance(number, int) else math.isfinite(number)


class Listing:
    """One namespace's records that meet a filter, in an order. Every method raises Unavailable and StatementRefused."""

    def __init__(
        self, database: ClickHouse, timeout_ms: int, namespace: str, filters: Sequence[Filter], order: Order
    ) -> None:
        self._database = database
        self._timeout_s = timeout_ms / 1000
        self._limits = {"max_execution_time": self._timeout_s}
        self._namespace = namespace
        self._filter = Group(tuple(filters))
        self._order = order

    async def page(
        self, size: int, take: Callable[[int], None], *, after: Place | None = None, offset: int = 0
    ) -> Page:
        """The next `size` records after a place, or after the first `offset` ones.

        `take` is told of the bytes of objects that are kept, and may raise.
        """
        deadline = time.monotonic() + self._timeout_s
        if offset:
            after = await self._skipped(offset, after, deadline)
            if after is None:
                return Page([], None)
        places = await self._visible(size + 1, after, deadline)
        shown = places[:size]
        rows: dict[str, dict[str, Any]] = {}
        for start in range(0, len(shown), RECORDS_TOGETHER):
            some = [place.interaction_id for place in shown[start : start + RECORDS_TOGETHER]]
            read = await read_stored(self._database, self._namespace, some)
            take(sum(len(row[name]) for row in read.values() for name in OBJECT_FIELDS))
            rows |= read
        found = [rows[place.interaction_id] for place in shown if place.interaction_id in rows]
        return Page(found, shown[-1] if len(places) > size else None)

    async def _skipped(self, offset: int, after: Place | None, deadline: float) -> Place | None:
        """The place of the last of this many records; None when there are fewer."""
        places = await self._visible(offset, after, deadline)
        return places[-1] if len(places) == offset else None

    async def _visible(self, wanted: int, after: Place | None, deadline: float) -> list[Place]:
        """The places of this many records, fewer at the end; without deleted ones. Raises TookTooLong."""
        places: list[Place] = []
        looked_for = min(wanted, CANDIDATES)
        while True:
            candidates = await self._candidates(looked_for, after)
            visible = await visible_ids(self._database, self._namespace, [each.interaction_id for each in candidates])
            places += [place for place in candidates if place.interaction_id in visible]
            if len(places) >= wanted or len(candidates) < looked_for:
                return places[:wanted]
            if time.monotonic() > deadline:
                raise TookTooLong("a list was not made in time")
            after, looked_for = candidates[-1], CANDIDATES  # some were deleted, and more may be

    async def _candidates(self, most: int, after: Place | None) -> list[Place]:
        column, descending = self._order
        bind = Parameters()
        direction = "DESC" if descending else "ASC"
        conditions = [
            f"namespace = {bind.bind(self._namespace, 'String')}",
            "is_deleted = 0",
            where(self._filter, bind),
        ]
        if after is not None:
            conditions.append(self._behind(after, bind))
        by_value = "" if column == ID else f"{column} {direction} NULLS LAST, "
        sql = (
            f"SELECT {column} AS value, {ID} FROM {INTERACTIONS} WHERE {' AND '.join(conditions)} "
            f"ORDER BY {by_value}{ID} {direction} LIMIT 1 BY {ID} LIMIT {most:d}"
        )
        return [Place(*row) for row in await self._database.rows(sql, bind.values, limits=self._limits)]

    def _behind(self, place: Place, bind: Parameters) -> str:
        """The condition for rows after a place in this order."""
        column, descending = self._order
        than = "<" if descending else ">"
        later_id = f"{ID} {than} {bind.bind(place.interaction_id, 'String')}"
        if column == ID:
            return later_id
        if place.value is None:
            return f"(isNull({column}) AND {later_id})"
        bound = bind.bind(place.value, TYPES[FILTER_FIELDS[column]])
        null_later = "" if column in NEVER_NULL else f" OR isNull({column})"
        return f"(ifNull({column} {than} {bound} OR ({column} = {bound} AND {later_id}), 0){null_later})"

    async def total(self) -> int:
        """How many there are, over all pages."""
        bind = Parameters()
        conditions = [f"namespace = {bind.bind(self._namespace, 'String')}", where(self._filter, bind)]
        sql = f"SELECT uniqExact({ID}) FROM {INTERACTIONS} FINAL WHERE {' AND '.join(conditions)}"
        ((count,),) = await self._database.rows(sql, bind.values, limits=self._limits)
        return int(count)
