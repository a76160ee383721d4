"""Endpoints of learning."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import APIRouter

from learning.dataset_routes import add_dataset_routes
from learning.score_routes import add_score_routes
from runtime.clickhouse import ClickHouse
from runtime.http.in_flight import InFlightLimit
from runtime.http.service import AppContext, Check, Stores


class LearningContext:
    """Context of the endpoints: what they share."""

    def __init__(self, app: AppContext) -> None:
        self.app = app
        self.settings = app.settings
        self.limit = InFlightLimit(app.settings.learning_in_flight, "estimates", "TALLY_LEARNING_IN_FLIGHT")
        self.database: ClickHouse
        """Connection of lists, while the module is open."""


class LearningModule:
    """API module of learning."""

    def __init__(self) -> None:
        self._context: LearningContext

    @asynccontextmanager
    async def opened(self, _base: AppContext, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Use the connection of lists until the block ends."""
        self._context.database = stores.lists
        yield {}

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints."""
        self._context = LearningContext(base)
        router = APIRouter(tags=["learning"])
        add_score_routes(router, base, self._context.limit)
        add_dataset_routes(router, base, self._context.limit, lambda: self._context.database)
        return router
