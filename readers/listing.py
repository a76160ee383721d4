"""Lists: pages of records by filter, newest first or sorted.

A first query finds ids, and reads only the columns of the filter and the order. It follows the table's key if that is
the order of the list. A second query reads the records of one page by id, without deleted ones. A cursor is the
position of a page's last record, so concurrent writes do not shift pages.
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
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.errors import StatementTimeout
from schemas.event_time import parse_occurred_at
from schemas.identity import is_interaction_id
from schemas.interaction import FIELDS, OBJECT_FIELDS
from schemas.tables import INTERACTIONS

CANDIDATES = 1_000
"""Maximum ids that one query finds."""
RECORDS_TOGETHER = 250
MAX_SHOWN_NAME = 100
MAX_INT64 = 2**63 - 1
ID = "interaction_id"
NEVER_NULL = {ID, "timestamp", *(field.name for field in FIELDS if field.required)}


class Order(NamedTuple):
    """Sort order of a list. Equal values are sorted by id, in the same direction; null comes last."""

    column: str = ID
    descending: bool = True

    @classmethod
    def by(cls, name: str, *, descending: bool) -> "Order":
        """Return the order by a field. Raises FilterError."""
        column = ALIASES.get(name, name)
        if FILTER_FIELDS.get(column, "texts") == "texts":
            sortable = ", ".join(name for name, kind in FILTER_FIELDS.items() if kind != "texts")
            raise FilterError(["sort", "field"], f"{name[:MAX_SHOWN_NAME]!r} is not sortable; use one of {sortable}")
        return cls(column, descending)


class ListPosition(NamedTuple):
    """Position of a record in a list: its value of the sort field, and its id."""

    value: Any
    interaction_id: str


class ListPage(NamedTuple):
    """Rows of one page, and the position to continue after; None at the end of the list."""

    rows: Sequence[dict[str, Any]]
    next_place: ListPosition | None


def write_cursor(order: Order, place: ListPosition) -> str:
    """Return a position as text. It holds only values that the client has seen, and is not bound to a key."""
    value = place.value.isoformat() if isinstance(place.value, datetime) else place.value
    text = json.dumps([order.column, order.descending, value, place.interaction_id], ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def read_cursor(order: Order, text: str) -> ListPosition:
    """Return the position in a cursor of the same order. Raises FilterError."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        column, descending, value, interaction_id = json.loads(raw)
        if FILTER_FIELDS[column] == "time" and value is not None:
            value = parse_occurred_at(value)
        wanted = {"text": str, "number": int | float, "time": datetime}[FILTER_FIELDS[column]]
    except (ValueError, TypeError, KeyError, binascii.Error, RecursionError):
        raise FilterError(["cursor"], "is not a cursor of this API") from None
    if (column, descending) != order:
        raise FilterError(["cursor"], "belongs to a list in another order")
    if not (value is None or isinstance(value, wanted)) or isinstance(value, bool):
        raise FilterError(["cursor"], "is not a cursor of this API")
    if (isinstance(value, str) and not is_plain(value)) or (isinstance(value, int | float) and not _is_in_range(value)):
        raise FilterError(["cursor"], "is not a cursor of this API")
    if not isinstance(interaction_id, str) or not is_interaction_id(interaction_id):
        raise FilterError(["cursor"], "is not a cursor of this API")
    return ListPosition(value, interaction_id)


def _is_in_range(number: float) -> bool:
    """Return whether a numeric column may hold a number: a finite float, or an integer of at most 64 bits."""
    return abs(number) <= MAX_INT64 if isinstance(number, int) else math.isfinite(number)


class Listing:
    """Sorted list of a namespace's records that meet a filter. Every method raises Unavailable and StatementRefused."""

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
        self, size: int, take: Callable[[int], None], *, after: ListPosition | None = None, offset: int = 0
    ) -> ListPage:
        """Return the next `size` records after a position, or after the first `offset` records.

        `take` receives the bytes of objects that are held, and may raise.
        """
        deadline = time.monotonic() + self._timeout_s
        if offset:
            skipped = await self._visible_places(offset, after, deadline)
            if len(skipped) < offset:
                return ListPage([], None)
            after = skipped[-1]
        places = await self._visible_places(size + 1, after, deadline)
        shown = places[:size]
        rows: dict[str, dict[str, Any]] = {}
        for start in range(0, len(shown), RECORDS_TOGETHER):
            some = [place.interaction_id for place in shown[start : start + RECORDS_TOGETHER]]
            read = await read_stored(self._database, self._namespace, some)
            take(sum(len(row[name]) for row in read.values() for name in OBJECT_FIELDS))
            rows |= read
        found = [rows[place.interaction_id] for place in shown if place.interaction_id in rows]
        return ListPage(found, shown[-1] if len(places) > size else None)

    async def _visible_places(self, wanted: int, after: ListPosition | None, deadline: float) -> list[ListPosition]:
        """Return the positions of `wanted` records, fewer at the end, without deleted ones. Raises StatementTimeout."""
        places: list[ListPosition] = []
        looked_for = min(wanted, CANDIDATES)
        while True:
            candidates = await self._candidates(looked_for, after)
            visible = await visible_ids(self._database, self._namespace, [each.interaction_id for each in candidates])
            places += [place for place in candidates if place.interaction_id in visible]
            if len(places) >= wanted or len(candidates) < looked_for:
                return places[:wanted]
            if time.monotonic() > deadline:
                raise StatementTimeout("a list query exceeded its time limit")
            after, looked_for = candidates[-1], CANDIDATES  # some were deleted, and further ones may be

    async def _candidates(self, most: int, after: ListPosition | None) -> list[ListPosition]:
        column, descending = self._order
        bind = BoundParameters()
        direction = "DESC" if descending else "ASC"
        conditions = [
            f"namespace = {bind.bind(self._namespace, 'String')}",
            "is_deleted = 0",
            where(self._filter, bind),
        ]
        if after is not None:
            conditions.append(self._rows_after(after, bind))
        by_value = "" if column == ID else f"{column} {direction} NULLS LAST, "
        sql = (
            f"SELECT {column} AS value, {ID} FROM {INTERACTIONS} WHERE {' AND '.join(conditions)} "
            f"ORDER BY {by_value}{ID} {direction} LIMIT 1 BY {ID} LIMIT {most:d}"
        )
        return [ListPosition(*row) for row in await self._database.rows(sql, bind.values, limits=self._limits)]

    def _rows_after(self, place: ListPosition, bind: BoundParameters) -> str:
        """Return the condition for rows after a position in this order."""
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
        """Return the number of records on all pages."""
        bind = BoundParameters()
        conditions = [f"namespace = {bind.bind(self._namespace, 'String')}", where(self._filter, bind)]
        sql = f"SELECT uniqExact({ID}) FROM {INTERACTIONS} FINAL WHERE {' AND '.join(conditions)}"
        ((count,),) = await self._database.rows(sql, bind.values, limits=self._limits)
        return int(count)
