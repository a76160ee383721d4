"""Endpoints of the collector."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel

from producers.clients import ProducerClients
from producers.collector import documents
from producers.collector.events import precompile
from producers.collector.intake import Collector, WaitFor
from producers.topic import TopicWriter
from runtime import kafka
from runtime.errors import TallyError
from runtime.http import openapi, paths
from runtime.http.access import Caller
from runtime.http.middleware import EXTRA_HEADERS
from runtime.http.prefer import wait_s
from runtime.http.service import AppContext, Check, Stores
from runtime.tasks import running
from schemas.record import InteractionRecord
from schemas.wire import MAX_IDEMPOTENCY_BYTES

CLIENT_CHECK_S = 0.5

log = logging.getLogger("tally.api")

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


class TokenResponse(BaseModel):
    """Page token for `beacon?token=`, and its lifetime."""

    token: str
    expires_in_s: int


class CollectorModule:
    """API module of the collector. `wait_for` lets requests wait for outcomes, in a process with a reader."""

    def __init__(self, wait_for: WaitFor | None = None) -> None:
        self._wait_for = wait_for
        self._collector: Collector

    @asynccontextmanager
    async def opened(self, base: AppContext, _stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Connect to Kafka. On exit wait for unsent records."""
        await asyncio.to_thread(precompile)
        await kafka.require_topic(base.settings)
        async with ProducerClients(base.settings) as clients:
            self._collector = Collector(base.settings, await clients.open_next(), base.redis, self._wait_for)
            async with running(
                _replace_failed_client(self._collector.topic, clients), "replacing a failed Kafka producer"
            ):
                try:
                    yield {"kafka": Check(self._collector.topic.check)}
                finally:
                    await self._collector.close()

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints: create, batch, beacon and page tokens."""
        router = APIRouter(prefix=paths.INTERACTIONS, tags=["interactions"])
        writer = base.require_scope("write")

        @router.post(
            "",
            responses=openapi.error_responses(408, 413, 415, ok=InteractionRecord),
            openapi_extra=documents.CREATE,
        )
        async def create_interaction(
            request: Request, caller: Annotated[Caller, Depends(writer)], idempotency_key: IdempotencyKey = None
        ) -> Response:
            """Record one interaction. 200 once Kafka has it; with `Prefer: wait=2` once its outcome is final."""
            seconds = wait_s(request, base.settings.prefer_wait_ms)
            return await self._collector.create(request, caller.namespace, idempotency_key, seconds)

        @router.post(
            "/batch",
            responses=openapi.error_responses(408, 413, 415, ok=documents.BulkResponse),
            openapi_extra=documents.BATCH,
        )
        async def create_interactions_batch(
            request: Request,
            caller: Annotated[Caller, Depends(writer)],
            idempotency_key: IdempotencyKey = None,
            deduplicate: Annotated[bool, Query(description="false: store them even if they repeat others")] = True,
        ) -> Response:
            """Record up to 1,000 interactions, each validated by itself. 200 once Kafka has the valid ones."""
            return await self._collector.batch(request, caller.namespace, idempotency_key, deduplicate=deduplicate)

        @router.post(
            "/beacon",
            status_code=204,
            response_class=Response,
            responses=openapi.error_responses(408, 413, 415, ok=documents.BulkResponse),
            openapi_extra=documents.BEACON,
        )
        async def beacon(request: Request, token: Annotated[str, Query(max_length=2_048)]) -> Response:
            """Record a page's interactions: one, a list, or a batch. 204; 200 lists the invalid ones."""
            # Any page may read the response, to decide whether to repeat; the token decides who may write.
            request.scope[EXTRA_HEADERS] = {"Access-Control-Allow-Origin": "*"}
            caller = await base.apply_rate_limit(request, base.access.page(request, token))
            return await self._collector.page(request, caller.namespace)

        @router.post(
            "/beacon-token",
            response_model=TokenResponse,
            responses=openapi.error_responses(408, 413, 415),
            openapi_extra=documents.TOKEN,
        )
        async def beacon_token(request: Request, caller: Annotated[Caller, Depends(writer)]) -> dict[str, Any]:
            """Return a token that lets pages of one origin write into this namespace for a limited time."""
            wanted = await self._collector.token_request(request)
            token = base.access.page_token(caller, wanted.origin, wanted.expires_in_s)
            return {"token": token, "expires_in_s": wanted.expires_in_s}

        return router


async def _replace_failed_client(topic: TopicWriter, clients: ProducerClients) -> None:
    """Replace a failed client, whenever there is one."""
    while True:
        await asyncio.sleep(CLIENT_CHECK_S)
        if topic.broken is not None:
            log.warning("Kafka producer failed fatally; recreating it")
            try:
                topic.use_client(await clients.open_next())
            except TallyError as error:
                log.warning("recreating the Kafka producer failed, retrying in %.1f s: %s", CLIENT_CHECK_S, error)
