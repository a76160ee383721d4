"""HTTP route of propensities."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from learning.context import LearningContext
from learning.estimators.curve import DEFAULT_METHOD, PropensityMethod
from learning.propensities import estimate
from learning.propensity_file import PropensityDocument, curves_document
from learning.scope_query import RetrieverId, ScopeQuery, learning_errors
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer


class PropensityQuery(ScopeQuery):
    """Propensities of a retriever's results by one method."""

    method: PropensityMethod = Field(DEFAULT_METHOD, description="how they are estimated")


def add_propensity_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoint of propensities."""

    @router.get(
        "/v1/retrievers/{retriever_id}/propensities",
        response_model=PropensityDocument,
        responses=openapi.error_responses(),
    )
    async def propensities(
        retriever_id: RetrieverId,
        query: Annotated[PropensityQuery, Query()],
        caller: Annotated[Caller, Depends(context.reader)],
    ) -> Response:
        """Estimate the probability that each position is examined, relative to the lowest one, with 95 % intervals."""
        scope = query.scope(context.settings, caller.namespace, retriever_id)
        with context.limit.slot(), learning_errors():
            curves = await estimate(context.settings, context.database, scope, query.method)
        return json_answer(curves_document(scope, curves)).response()
