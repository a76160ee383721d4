"""HTTP request of a list: body and query of the published service."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlencode

import msgspec
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from readers.filter_errors import refused_pattern
from readers.filter_fields import FilterError, field_named, is_plain
from readers.filters import Condition, Filter, read_filters
from readers.listing import Listing, ListPage, ListPosition, Order, read_cursor, write_cursor
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementRefused, StatementTimeout
from runtime.http.body import ChunkedJsonResponse, read_body, read_model
from runtime.http.errors import ApiError, invalid, problem, unavailable
from runtime.http.middleware import ON_COMPLETE
from runtime.http.openapi import request_body
from runtime.http.turns import TurnQueue
from runtime.settings import Settings
from schemas.interaction import INTERACTION_TYPES, MAX_ID_BYTES, OBJECT_FIELDS
from schemas.record import InteractionRecord, record_from_row

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
MAX_OFFSET = 10_000
MAX_SEARCH = 1_024
_EXACT = ("execution_id", "retriever_id", "session_id", "user_id", "feature_id", "interaction_type")

IdText = Annotated[str | None, Field(max_length=MAX_ID_BYTES)]


class Sort(BaseModel):
    """Field and direction to sort by."""

    model_config = ConfigDict(extra="forbid", strict=True)

    field: str = Field(max_length=200, examples=["position"])
    direction: Literal["asc", "desc"] | None = None


class ListRequest(BaseModel):
    """Conditions of a list; all of them must hold."""

    model_config = ConfigDict(extra="forbid", strict=True)

    execution_id: IdText = None
    retriever_id: IdText = None
    session_id: IdText = None
    user_id: IdText = None
    feature_id: IdText = None
    interaction_type: IdText = Field(default=None, examples=["click"])
    filters: dict[str, Any] | None = None
    sort: Sort | None = None
    search: str | None = Field(
        default=None, min_length=1, max_length=MAX_SEARCH, description="text in a key or value of metadata"
    )


class ListQuery(BaseModel):
    """Page of a list. `limit` and `page_size` are synonyms, as are `cursor`, `next_cursor` and `after`."""

    limit: int | None = Field(None, ge=1, le=MAX_PAGE)
    page_size: int | None = Field(None, ge=1, le=MAX_PAGE)
    offset: int | None = Field(None, ge=0, le=MAX_OFFSET)
    page: int | None = Field(None, ge=1)
    cursor: str | None = Field(None, max_length=4_096)
    next_cursor: str | None = Field(None, max_length=4_096)
    after: str | None = Field(None, max_length=4_096)
    include_total: bool = False


class Pagination(BaseModel):
    """Position of the page in the list. Totals are null unless `include_total`."""

    total: int | None
    page: int | None
    page_size: int
    total_pages: int | None
    next_page: str | None
    previous_page: str | None
    next_cursor: str | None


class ListResponse(BaseModel):
    """Page of a list. `items` is the older name of `results`."""

    results: list[InteractionRecord]
    items: list[InteractionRecord]
    pagination: Pagination


_EXAMPLE = {"user_id": "ada", "filters": {"position": {"lte": 5}}, "sort": {"field": "position", "direction": "asc"}}
DESCRIPTION = request_body(ListRequest.model_json_schema(), _EXAMPLE)
DESCRIPTION["requestBody"]["required"] = False


class HeldPages:
    """Bytes of the pages of one process, bounded for each page and for all together.

    A page is held from reading its records until the client has received it.
    """

    def __init__(self, settings: Settings) -> None:
        self._page_bytes = settings.list_page_bytes
        self._most_bytes = settings.lists_in_flight_bytes
        self._bytes = 0

    def page_of(self, request: Request) -> Callable[[int], None]:
        """Return a function that reserves bytes of a request's page until the request ends.

        It raises ApiError: 422 when the page is too large, 503 when all pages together are too large.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if held + size > self._page_bytes:
                message = f"its records are larger than {self._page_bytes} bytes (TALLY_LIST_PAGE_BYTES)"
                raise invalid([problem("too_large", ["query", "limit"], f"{message}: request a smaller page")])
            if self._bytes + size > self._most_bytes:
                raise unavailable("too many large lists are being read (TALLY_LISTS_IN_FLIGHT_BYTES): retry shortly")
            held += size
            self._bytes += size

        def give_back() -> None:
            self._bytes -= held

        request.scope.setdefault(ON_COMPLETE, []).append(give_back)
        return take


class _PageRequest(NamedTuple):
    size: int
    offset: int
    page: int | None
    after: ListPosition | None


async def answer_list(
    request: Request,
    settings: Settings,
    database: ClickHouse,
    held: HeldPages,
    turns: TurnQueue,
    namespace: str,
    query: ListQuery,
) -> Response:
    """Return a page of a namespace's records. Raises ApiError."""
    body = await read_body(
        request.scope, request.receive, settings.http_list_bytes, settings.http_body_timeout_ms, lambda _size: None
    )
    filters, order = await turns.run(len(body), lambda: _read(body))
    try:
        place = _page_request(query, order)
    except FilterError as error:
        raise _refused(error) from None
    listing = Listing(database, settings.list_timeout_ms, namespace, filters, order)
    try:
        take = held.page_of(request)
        page = await listing.page(place.size, take, after=place.after, offset=place.offset)
        total = await listing.total() if query.include_total else None
    except StatementTimeout:
        raise unavailable("the list takes longer than TALLY_LIST_TIMEOUT_MS: filter by a time or an id") from None
    except StatementRefused as error:
        raise refused_pattern(error, "body") from None
    records = await turns.run(
        sum(len(row[name]) for row in page.rows for name in OBJECT_FIELDS), lambda: _encoded(page)
    )
    return _response(page, records, place, order, total)


def _read(body: bytes) -> tuple[list[Filter], Order]:
    """Read a list request. Raises ApiError."""
    body_model = read_model(ListRequest, body)
    try:
        sort = body_model.sort
        order = Order() if sort is None else Order.by(sort.field, descending=sort.direction != "asc")
        return _filters(body_model), order
    except FilterError as error:
        raise _refused(error) from None


def _refused(error: FilterError) -> ApiError:
    return invalid([problem("bad_filter", ["body", *error.where], str(error))])


def _filters(body_model: ListRequest) -> list[Filter]:
    filters: list[Filter] = []
    for name in (*_EXACT, "search"):
        value = getattr(body_model, name)
        if value is None:
            continue
        if not is_plain(value):
            raise FilterError([name], "contains a lone surrogate, which no stored text does")
        if name == "interaction_type" and value not in INTERACTION_TYPES:
            raise FilterError([name], f"is none of {', '.join(INTERACTION_TYPES)}")
        if name == "search":
            filters.append(Condition(field_named("metadata", [name]), "text", (value,), case_sensitive=False))
        else:
            filters.append(Condition(field_named(name, [name]), "eq", (value,), case_sensitive=True))
    if body_model.filters is not None:
        filters.append(read_filters(body_model.filters))
    return filters


def _page_request(query: ListQuery, order: Order) -> _PageRequest:
    cursors = [each for each in (query.cursor, query.next_cursor, query.after) if each]
    size = query.limit or query.page_size or DEFAULT_PAGE
    offset = query.offset or 0
    if query.page is not None:
        offset = offset or (query.page - 1) * size
    if cursors and offset:
        raise invalid([problem("conflict", ["query"], "a cursor cannot be combined with offset or page")])
    if offset > MAX_OFFSET:
        raise invalid([problem("too_large", ["query", "page"], f"is past {MAX_OFFSET} records: use a cursor")])
    after = read_cursor(order, cursors[0]) if cursors else None
    return _PageRequest(size, offset, None if cursors else offset // size + 1, after)


def _encoded(page: ListPage) -> bytes:
    return msgspec.json.encode([record_from_row(row) for row in page.rows])


def _response(page: ListPage, records: bytes, place: _PageRequest, order: Order, total: int | None) -> Response:
    cursor = None if page.next_place is None else write_cursor(order, page.next_place)
    before = place.offset - place.size
    pagination = Pagination(
        total=total,
        page=place.page,
        page_size=place.size,
        total_pages=None if total is None else -(-total // place.size),
        next_page=None if cursor is None else f"?{urlencode({'limit': place.size, 'cursor': cursor})}",
        previous_page=f"?{urlencode({'limit': place.size, 'offset': max(0, before)})}" if place.offset else None,
        next_cursor=cursor,
    )
    rest = b',"pagination":%b}' % pagination.model_dump_json().encode()
    return ChunkedJsonResponse([b'{"results":', records, b',"items":', records, rest])
