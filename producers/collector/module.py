"""Endpoints of the collector."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel

from producers.collector import documents
from producers.collector.dry_run import DryRun, DryRunContext
from producers.collector.dry_run_models import DryRunReport
from producers.collector.events import precompile
from producers.collector.intake import Collector, WaitFor
from producers.topic import TopicWriter
from runtime import kafka
from runtime.http import openapi, paths
from runtime.http.access import Caller
from runtime.http.answer import Answer
from runtime.http.body import read_body, read_model
from runtime.http.hot_routes import HotRequest, Parameter, declared_only, read_parameters, served_by
from runtime.http.middleware import EXTRA_HEADERS
from runtime.http.prefer import wait_s
from runtime.http.readiness import Check
from runtime.http.service import AppContext, Stores
from schemas.record import InteractionRecord
from schemas.wire import MAX_IDEMPOTENCY_BYTES

_ITEM_SUFFIX_BYTES = 12
"""Largest suffix that an item's index in its batch adds to a key."""
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=MAX_IDEMPOTENCY_BYTES - _ITEM_SUFFIX_BYTES,
        pattern="^[!-~]+$",
        description="For events without an execution: the same key within the window is the same event",
    ),
]
Deduplicate = Annotated[bool, Query(description="false: store them even if they repeat others")]
Token = Annotated[str, Query(max_length=2_048)]

_IDEMPOTENCY_KEY = Parameter("header", "idempotency-key", IdempotencyKey, default=None)
_DEDUPLICATE = Parameter("query", "deduplicate", Deduplicate, default=True)
_TOKEN = Parameter("query", "token", Token)


class TokenResponse(BaseModel):
    """Page token for `beacon?token=`, and its lifetime."""

    token: str
    expires_in_s: int


class CollectorModule:
    """API module of the collector. `wait_for` lets requests wait for outcomes, in a process with a reader."""

    def __init__(self, wait_for: WaitFor | None = None) -> None:
        self._wait_for = wait_for
        self._collector: Collector
        self._dry_run: DryRun

    @asynccontextmanager
    async def opened(self, base: AppContext, _stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Connect to Kafka. On exit wait for unsent records."""
        await asyncio.to_thread(precompile)
        await kafka.require_topic(base.settings)
        async with TopicWriter(base.settings, base.settings.collector_ack_ms) as topic:
            self._collector = Collector(base.settings, topic, base.redis, self._wait_for)
            self._dry_run = DryRun(base.settings, self._collector.validator, topic)
            try:
                async with self._collector.refusals.added_to_redis():
                    yield {"kafka": Check(topic.check)}
            finally:
                await self._collector.close()

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints: create, batch, validate, beacon and page tokens."""
        router = APIRouter(prefix=paths.INTERACTIONS, tags=["interactions"])
        self._declare_single(router, base)
        self._declare_batch(router, base)
        self._declare_dry_run(router, base)
        self._declare_beacon(router, base)
        self._declare_token(router, base)
        return router

    def _declare_single(self, router: APIRouter, base: AppContext) -> None:
        settings = base.settings

        async def create(request: HotRequest) -> Answer:
            with self._collector.reserve() as reservation:
                with self._collector.refusals.requests("create", request.scope):
                    caller = await base.admit(request.scope, "write")
                    (key,) = read_parameters(request, (_IDEMPOTENCY_KEY,))
                    seconds = wait_s(request, settings.prefer_wait_ms)
                    body = await request.body(settings.http_body_bytes, settings.http_body_timeout_ms, reservation.take)
                return await self._collector.create(reservation, body, caller.namespace, key, seconds)

        @router.post(
            "",
            responses=openapi.error_responses(408, 413, 415, ok=InteractionRecord),
            openapi_extra=documents.CREATE,
        )
        @served_by(create)
        async def create_interaction(idempotency_key: IdempotencyKey = None) -> Response:
            """Record one interaction. 200 once Kafka has it; with `Prefer: wait=2` once its outcome is final."""
            declared_only(idempotency_key)

    def _declare_batch(self, router: APIRouter, base: AppContext) -> None:
        settings = base.settings

        async def batch(request: HotRequest) -> Answer:
            most_bytes, timeout_ms = settings.http_batch_bytes, settings.http_body_timeout_ms
            with self._collector.reserve() as reservation:
                with self._collector.refusals.requests("batch", request.scope):
                    caller = await base.admit(request.scope, "write")
                    deduplicate, key = read_parameters(request, (_DEDUPLICATE, _IDEMPOTENCY_KEY))
                    body = await request.body(most_bytes, timeout_ms, reservation.take)
                return await self._collector.batch(reservation, body, caller.namespace, key, deduplicate=deduplicate)

        @router.post(
            "/batch",
            responses=openapi.error_responses(408, 413, 415, ok=documents.BulkResponse),
            openapi_extra=documents.BATCH,
        )
        @served_by(batch)
        async def create_interactions_batch(
            idempotency_key: IdempotencyKey = None, deduplicate: Deduplicate = True
        ) -> Response:
            """Record up to 1,000 interactions, each validated by itself. 200 once Kafka has the valid ones."""
            declared_only(idempotency_key, deduplicate)

    def _declare_dry_run(self, router: APIRouter, base: AppContext) -> None:
        writer, settings = base.require_scope("write"), base.settings

        @router.post(
            "/validate",
            responses=openapi.error_responses(408, 413, 415, ok=DryRunReport),
            openapi_extra=documents.DRY_RUN,
        )
        async def validate_interactions(
            request: Request,
            caller: Annotated[Caller, Depends(writer)],
            idempotency_key: IdempotencyKey = None,
            deduplicate: Deduplicate = True,
        ) -> Response:
            """Validate the body of create or of batch, and show what Tally derives from it. Nothing is stored."""
            with self._collector.reserve() as reservation:
                body = await read_body(
                    request.scope,
                    request.receive,
                    settings.http_batch_bytes,
                    settings.http_body_timeout_ms,
                    reservation.take,
                )
                context = DryRunContext(caller.namespace, idempotency_key, deduplicate, settings.query_path)
                return await self._dry_run.check(body, context)

    def _declare_beacon(self, router: APIRouter, base: AppContext) -> None:
        settings = base.settings

        async def page(request: HotRequest) -> Answer:
            (token,) = read_parameters(request, (_TOKEN,))
            # Any page may read the response, to decide whether to repeat; the token decides who may write.
            request.scope[EXTRA_HEADERS] = {"Access-Control-Allow-Origin": "*"}
            with self._collector.reserve() as reservation:
                with self._collector.refusals.requests("beacon", request.scope):
                    caller = await base.admit_page(request.scope, token)
                    body = await request.body(settings.http_body_bytes, settings.http_body_timeout_ms, reservation.take)
                return await self._collector.page(reservation, body, caller.namespace)

        @router.post(
            "/beacon",
            status_code=204,
            response_class=Response,
            responses=openapi.error_responses(408, 413, 415, ok=documents.BulkResponse),
            openapi_extra=documents.BEACON,
        )
        @served_by(page)
        async def beacon(token: Token) -> Response:
            """Record a page's interactions: one, a list, or a batch. 204; 200 lists the invalid ones."""
            declared_only(token)

    def _declare_token(self, router: APIRouter, base: AppContext) -> None:
        writer, settings = base.require_scope("write"), base.settings

        @router.post(
            "/beacon-token",
            response_model=TokenResponse,
            responses=openapi.error_responses(408, 413, 415),
            openapi_extra=documents.TOKEN,
        )
        async def beacon_token(request: Request, caller: Annotated[Caller, Depends(writer)]) -> dict[str, Any]:
            """Return a token that lets pages of one origin write into this namespace for a limited time."""
            with self._collector.reserve() as reservation:
                body = await read_body(
                    request.scope,
                    request.receive,
                    settings.http_list_bytes,
                    settings.http_body_timeout_ms,
                    reservation.take,
                )
                wanted = read_model(documents.TokenRequest, body)
            token = base.access.page_token(caller, wanted.origin, wanted.expires_in_s)
            return {"token": token, "expires_in_s": wanted.expires_in_s}
