"""Endpoints of the reader."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from readers.event_models import InteractionId
from readers.event_routes import EventCalls, add_event_routes
from readers.export_request import EXPORTED, ExportQuery
from readers.list_request import DESCRIPTION, ListQuery, ListResponse
from readers.outcome_groups import OutcomeGroupsQuery, OutcomeGroupsResponse
from readers.outcomes import OutcomePage, OutcomeQuery
from readers.pipeline_routes import PipelineViews, add_pipeline_routes
from readers.progress import ConsumerProgress
from readers.reader import DeleteResponse, EventStatus, Reader
from readers.report_request import ReportList, ReportQuery, ReportResponse, described_reports
from readers.session_erasure import SessionErasure
from readers.tracking_health import measuring
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import Answer
from runtime.http.errors import forbidden
from runtime.http.hot_routes import HotRequest, declared_only, served_by
from runtime.http.paths import INTERACTIONS
from runtime.http.prefer import wait_s
from runtime.http.readiness import Check
from runtime.http.service import AppContext, CallerOf, Stores
from runtime.migrate import check_schema
from schemas.outcome import Outcome
from schemas.record import InteractionRecord

ReportName = Annotated[str, Path(description="name in the list of reports", examples=["overview"], max_length=100)]


class ReaderModule:
    """API module of the reader."""

    def __init__(self) -> None:
        self._reader: Reader
        self._events: EventCalls
        self._views: PipelineViews

    @asynccontextmanager
    async def opened(self, base: AppContext, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Follow the progress of the consumers, and measure the health of the tracking, until the block ends."""
        progress = ConsumerProgress(base.settings)
        sessions = SessionErasure(base.settings, base.redis, stores.lookups)
        self._reader = Reader(base.settings, stores, progress, sessions)
        self._events = EventCalls(base.settings, stores, self._reader)
        self._views = PipelineViews(base, progress, stores.lists, self._reader.list_limit)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._reader.close)
            stack.callback(self._events.feeds.close)
            if base.settings.kafka:
                await stack.enter_async_context(progress.following())
                await stack.enter_async_context(self._views.observing())
            if base.settings.health_every_ms:
                await stack.enter_async_context(measuring(base.settings, base.redis))
            yield {
                "clickhouse": Check(partial(check_schema, base.settings, stores.monitoring)),
                "progress": Check(progress.check, needed=False),
                # A stuck worker must not stop the collector from accepting events.
                "workers": Check(progress.partitions.check, needed=False),
            }

    async def outcome(self, namespace: str, interaction_id: str, seconds: float) -> Outcome | None:
        """Return the outcome of an event, after a wait of at most `seconds`. Raises Unavailable."""
        return (await self._reader.waiting.outcome(namespace, interaction_id, seconds)).outcome

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints: get, status, list, delete, outcomes and export."""
        router = APIRouter(tags=["interactions"])
        reader, deleter = base.require_scope("read"), base.require_scope("delete")

        async def get(request: HotRequest) -> Answer:
            caller = await base.admit(request.scope, "read")
            return await self._reader.get(
                caller.namespace, request.value, wait_s(request, base.settings.prefer_wait_ms)
            )

        @router.post(
            f"{INTERACTIONS}/list",
            responses=openapi.error_responses(408, 413, 415, ok=ListResponse),
            openapi_extra=DESCRIPTION,
        )
        async def list_interactions(
            request: Request, caller: Annotated[Caller, Depends(reader)], query: Annotated[ListQuery, Query()]
        ) -> Response:
            """List records by filter, newest first unless sorted. Concurrent writes do not shift pages."""
            return await self._reader.list(request, caller.namespace, query)

        @router.get(f"{INTERACTIONS}/{{interaction_id}}", responses=openapi.error_responses(404, ok=InteractionRecord))
        @served_by(get)
        async def get_interaction(interaction_id: InteractionId) -> Response:
            """Return one interaction, after a short wait if it is in flight.

            For a duplicate it is the owner's record with `X-Duplicate-Of`; for a rejected event 422 with the reason.
            """
            declared_only(interaction_id)

        @router.get(
            f"{INTERACTIONS}/{{interaction_id}}/status",
            response_model=EventStatus,
            responses=openapi.error_responses(404),
        )
        async def get_status(interaction_id: InteractionId, caller: Annotated[Caller, Depends(reader)]) -> EventStatus:
            """Return the current status of an event."""
            return await self._reader.status(caller.namespace, interaction_id)

        @router.delete(
            f"{INTERACTIONS}/{{interaction_id}}", response_model=DeleteResponse, responses=openapi.error_responses(404)
        )
        async def delete_interaction(
            interaction_id: InteractionId, caller: Annotated[Caller, Depends(deleter)]
        ) -> DeleteResponse:
            """Delete an interaction for good, whether stored, in flight, or sent again later. Safe to repeat."""
            return await self._reader.delete(caller.namespace, interaction_id)

        add_event_routes(router, reader, lambda: self._events)
        self._add_downloads(router, reader)
        add_pipeline_routes(router, base, lambda: self._views)
        return router

    def _add_downloads(self, router: APIRouter, reader: CallerOf) -> None:
        """Add the endpoints for many events at once: outcomes, exports and reports."""

        @router.get("/v1/outcomes", response_model=OutcomePage, responses=openapi.error_responses(), tags=["outcomes"])
        async def outcomes(
            caller: Annotated[Caller, Depends(reader)], query: Annotated[OutcomeQuery, Query()]
        ) -> Response:
            """List outcomes of events that were not stored: duplicates and rejections, newest first, with reasons."""
            if query.unattributed and "admin" not in caller.scopes:
                raise forbidden("records without a namespace need a key with the scope 'admin'")
            return await self._reader.outcomes("" if query.unattributed else caller.namespace, query)

        @router.get(
            "/v1/outcomes/groups",
            response_model=OutcomeGroupsResponse,
            responses=openapi.error_responses(),
            tags=["outcomes"],
        )
        async def outcome_groups(
            caller: Annotated[Caller, Depends(reader)], query: Annotated[OutcomeGroupsQuery, Query()]
        ) -> Response:
            """Count outcomes of the last minutes by execution, user, owner, reason or field, the most events first."""
            return await self._reader.outcome_groups(caller.namespace, query)

        @router.get(
            "/v1/export",
            response_class=Response,
            responses=openapi.error_responses() | EXPORTED,
        )
        async def export(
            caller: Annotated[Caller, Depends(reader)], query: Annotated[ExportQuery, Query()]
        ) -> Response:
            """Stream all records of a time range that meet the filters, in the order of their ids.

            A response that ends without its last chunk is incomplete.
            """
            return self._reader.exports.answer(caller.namespace, query)

        @router.get("/v1/reports", responses=openapi.error_responses(), tags=["reports"])
        async def list_reports(_caller: Annotated[Caller, Depends(reader)]) -> ReportList:
            """List the reports, with their questions, columns and parameters."""
            return described_reports()

        @router.get(
            "/v1/reports/{name}",
            response_model=ReportResponse,
            responses=openapi.error_responses(404),
            tags=["reports"],
        )
        async def get_report(
            name: ReportName, caller: Annotated[Caller, Depends(reader)], query: Annotated[ReportQuery, Query()]
        ) -> Response:
            """Answer a question about search over a range of event time. Rates have 95 % intervals."""
            return await self._reader.reports.answer(caller.namespace, name, query)
