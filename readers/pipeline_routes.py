"""Endpoints that show whether events arrive: the pipeline, the traffic, and the state of each namespace."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from readers.incidents import OBSERVE_EVERY_S, Incidents
from readers.namespace_states import NamespaceList, NamespaceStates
from readers.pipeline import PipelineResponse, describe_pipeline, problems_of
from readers.progress import ConsumerProgress
from readers.traffic import TrafficQuery, TrafficReader, TrafficResponse
from runtime.clickhouse import ClickHouse
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.http.openapi import error_responses
from runtime.http.service import AppContext
from runtime.tasks import running


class PipelineViews:
    """Views of the pipeline in one process, while its module is open."""

    def __init__(
        self, base: AppContext, progress: ConsumerProgress, database: ClickHouse, limit: InFlightLimit
    ) -> None:
        self.progress = progress
        self.incidents = Incidents()
        self._readiness = base.readiness
        self.traffic = TrafficReader(base.settings, database, progress, limit)
        self.namespaces = NamespaceStates(base.settings, database, progress, limit)

    @asynccontextmanager
    async def observing(self) -> AsyncIterator[None]:
        """Observe problems until the block ends, so that incidents are known that nobody has looked at."""
        async with running(self._observe_periodically(), "observing the pipeline"):
            yield

    async def _observe_periodically(self) -> None:
        while True:
            await asyncio.sleep(OBSERVE_EVERY_S)
            self.incidents.note(problems_of(self.progress, await self._readiness.check()))


def add_pipeline_routes(router: APIRouter, base: AppContext, views: Callable[[], PipelineViews]) -> None:
    """Add the endpoints. `views`: those of the open module."""
    reader = base.require_scope("read")

    @router.get("/v1/pipeline", response_model=PipelineResponse, responses=error_responses(), tags=["operations"])
    async def get_pipeline(_caller: Annotated[Caller, Depends(reader)]) -> Response:
        """Return offsets, lag, rates, workers and stores of the whole topic, as last observed."""
        if not base.settings.kafka:
            raise unavailable("the pipeline is not observed: TALLY_KAFKA is not set for this reader")
        ready = await base.readiness.check()
        shown = views()
        return json_answer(describe_pipeline(base.settings, shown.progress, ready, shown.incidents)).response()

    @router.get("/v1/traffic", response_model=TrafficResponse, responses=error_responses(), tags=["outcomes"])
    async def get_traffic(
        caller: Annotated[Caller, Depends(reader)], query: Annotated[TrafficQuery, Query()]
    ) -> Response:
        """Count the events of the last minutes by verdict and append time: by minute up to 3 hours, else by hour."""
        return json_answer(await views().traffic.traffic(caller.namespace, query.minutes)).response()

    @router.get("/v1/namespaces", response_model=NamespaceList, responses=error_responses(), tags=["operations"])
    async def list_namespaces(caller: Annotated[Caller, Depends(reader)]) -> Response:
        """Say for each namespace of the key whether its events arrive as usual."""
        return json_answer(await views().namespaces.of(base.access.key_of(caller).namespaces)).response()
