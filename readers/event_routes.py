"""Endpoints of events with their outcomes."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from readers.event_cursor import read_place, write_place
from readers.event_details import EventDetailsReader
from readers.event_feed import EventFeeds
from readers.event_models import EventDetails, EventPage, EventQuery, InteractionId, RecentEvents, RecentQuery
from readers.event_search import EventPages, EventSearch
from readers.reader import Reader
from runtime.errors import StatementTimeout
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import unavailable
from runtime.http.service import CallerOf, Stores
from runtime.settings import Settings


class EventCalls:
    """Calls about events of one process. Raises ApiError and Unavailable."""

    def __init__(self, settings: Settings, stores: Stores, reader: Reader) -> None:
        self._pages = EventPages(settings, stores.lists)
        self._limit = reader.list_limit
        self.feeds = EventFeeds(settings, stores.lists, reader.progress, reader.list_limit)
        self.details = EventDetailsReader(settings, stores, reader.progress, reader.waiting)

    async def search(self, namespace: str, query: EventQuery) -> Response:
        """Return a page of events."""
        after = read_place(query.cursor) if query.cursor else None
        search = EventSearch.of(namespace, query)
        try:
            with self._limit.slot():
                events, following = await self._pages.page(search, query.limit, after)
        except StatementTimeout:
            raise unavailable(
                "the search takes longer than TALLY_LIST_TIMEOUT_MS: use a shorter time range, or fewer verdicts"
            ) from None
        cursor = None if following is None else write_place(following)
        return json_answer({"events": events, "next_cursor": cursor, "notes": search.notes()}).response()


def add_event_routes(router: APIRouter, reader: CallerOf, calls: Callable[[], EventCalls]) -> None:
    """Add the endpoints to a router. `calls` returns the process's calls, which are opened after the routes."""

    @router.get("/v1/events", response_model=EventPage, responses=openapi.error_responses(), tags=["events"])
    async def list_events(
        caller: Annotated[Caller, Depends(reader)], query: Annotated[EventQuery, Query()]
    ) -> Response:
        """List events with their outcomes, the newest first: stored, duplicates, rejections and deletions."""
        return await calls().search(caller.namespace, query)

    @router.get("/v1/events/recent", response_model=RecentEvents, responses=openapi.error_responses(), tags=["events"])
    async def recent_events(
        caller: Annotated[Caller, Depends(reader)], query: Annotated[RecentQuery, Query()]
    ) -> Response:
        """Return the events whose outcomes were recorded since a cursor, or without one the last events.

        Follow `cursor`: each event is in exactly one answer, and `counts` has also those that are not shown.
        """
        return json_answer(await calls().feeds.recent(caller.namespace, query)).response()

    @router.get(
        "/v1/events/{interaction_id}",
        response_model=EventDetails,
        responses=openapi.error_responses(404),
        tags=["events"],
    )
    async def get_event(interaction_id: InteractionId, caller: Annotated[Caller, Depends(reader)]) -> Response:
        """Return the state of an event: its outcome and why, what happens next, and related events."""
        return json_answer(await calls().details.read(caller.namespace, interaction_id)).response()
