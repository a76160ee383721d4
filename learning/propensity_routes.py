"""HTTP route of propensities."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from learning.estimators.curve import DEFAULT_METHOD, PropensityMethod
from learning.propensities import estimate
from learning.propensity_file import PropensityDocument, curves_document
from learning.scope_query import RetrieverId, ScopeQuery, learning_errors
from runtime.clickhouse import ClickHouse
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings


class PropensityQuery(ScopeQuery):
    """Propensities of a retriever's results by one method."""

    method: PropensityMethod = Field(DEFAULT_METHOD, description="how they are estimated")


def add_propensity_routes(
    router: APIRouter,
    settings: Settings,
    database: Callable[[], ClickHouse],
    limit: InFlightLimit,
    reader: Callable[[Request], Awaitable[Caller]],
) -> None:
    """Add the route. `database`: returns the connection while the module is open; `reader`: authenticates callers."""

    @router.get(
        "/v1/retrievers/{retriever_id}/propensities",
        response_model=PropensityDocument,
        responses=openapi.error_responses(),
    )
    async def propensities(
        retriever_id: RetrieverId,
        query: Annotated[PropensityQuery, Query()],
        caller: Annotated[Caller, Depends(reader)],
    ) -> Response:
        """Estimate the probability that each position is examined, relative to the lowest one, with 95 % intervals."""
        scope = query.scope(settings, caller.namespace, retriever_id)
        with limit.slot(), learning_errors():
            curves = await estimate(settings, database(), scope, query.method)
        return json_answer(curves_document(scope, curves)).response()
