"""Endpoints of learning."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter

from learning.context import LearningContext
from learning.dataset_routes import add_dataset_routes
from learning.interleaving.routes import add_interleaving_routes
from learning.judgment_routes import add_judgment_routes
from learning.policy_routes import add_policy_routes
from learning.propensity_routes import add_propensity_routes
from learning.score_routes import add_score_routes
from learning.weights.analytics_routes import add_analytics_routes
from learning.weights.bound_watch import watching_bounds
from learning.weights.config_routes import add_config_list, add_config_routes
from learning.weights.count_leader import counting
from learning.weights.history_routes import add_weight_history_routes
from learning.weights.serving import weight_service
from learning.weights.tuning_routes import add_tuning_routes
from learning.weights.weights_routes import add_weights_routes
from runtime.http.readiness import Check
from runtime.http.service import AppContext, Stores


class LearningModule:
    """API module of learning."""

    def __init__(self) -> None:
        self._context: LearningContext

    @asynccontextmanager
    async def opened(self, base: AppContext, stores: Stores) -> AsyncIterator[Mapping[str, Check]]:
        """Use the connection of lists, serve weights and count what they are learned from, until the block ends."""
        self._context.database = stores.lists
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(counting(base.settings, base.redis))
            await stack.enter_async_context(watching_bounds(base.settings))
            self._context.weights = await stack.enter_async_context(weight_service(base.settings, base.redis))
            yield {}

    def routes(self, base: AppContext) -> APIRouter:
        """Return the endpoints."""
        self._context = LearningContext(base)
        router = APIRouter(tags=["learning"])
        for add_routes in (
            add_propensity_routes,
            add_judgment_routes,
            add_score_routes,
            add_dataset_routes,
            add_policy_routes,
            add_config_routes,
            add_config_list,
            add_analytics_routes,
            add_weight_history_routes,
            add_interleaving_routes,
            add_tuning_routes,
            add_weights_routes,
        ):
            add_routes(router, self._context)
        return router
