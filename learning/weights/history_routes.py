"""Endpoints of the weights of past days, and of the use of session signals."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from learning.context import LearningContext
from learning.scope import MAX_TEXT_BYTES, ScopeError
from learning.scope_query import RetrieverId, learning_errors
from learning.weights.analytics_routes import json_response, range_scope
from learning.weights.config_routes import config_errors
from learning.weights.configs import LearningConfigVersions
from learning.weights.counts import Level
from learning.weights.history import MAX_DAYS, HistoryRequest, read_history
from learning.weights.performance import compare_session_use, sessions_body
from runtime.http.access import Caller
from runtime.http.errors import invalid, problem
from runtime.http.openapi import error_responses
from runtime.http.times import Time


class HistoryOfWeightsQuery(BaseModel):
    """Days and context of a history of weights."""

    model_config = ConfigDict(extra="forbid")

    days: int = Field(30, ge=1, le=MAX_DAYS, description="days until today")
    level: Level | None = Field(
        None, description="default: personal with user_id, segment with segment, else global; a contradiction is 422"
    )
    segment: str = Field("", max_length=MAX_TEXT_BYTES, description="texts at demographic_features, joined by |")
    user_id: str = Field("", max_length=MAX_TEXT_BYTES)


class HistoryOfWeightsResponse(BaseModel):
    """Weights of a context by day, of days with results inside the window."""

    retriever_id: str
    namespace: str
    level: Level
    config_version: int
    days: list[dict[str, Any]] = Field(
        description="day, interactions, effective_exploration, and features: feature_uri, alpha, beta, mean with its "
        "interval (low, high), weight"
    )


class RangeQuery(BaseModel):
    """Range of event time, by default of the last seven days."""

    model_config = ConfigDict(extra="forbid")

    since: Time | None = Field(None, description="earliest event time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="event time before which events are read, ISO 8601")


class SessionsResponse(BaseModel):
    """Executions by the use of session signals: session, no_session, not_learned, no_decision."""

    retriever_id: str
    namespace: str
    since: datetime
    until: datetime
    groups: dict[str, dict[str, Any]]
    notes: list[str]


def add_weight_history_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints, which need the scope read."""
    reader, settings = context.reader, context.settings

    @router.get(
        "/v1/retrievers/{retriever_id}/weights/history",
        response_model=HistoryOfWeightsResponse,
        responses=error_responses(404),
    )
    async def get_weight_history(
        retriever_id: RetrieverId,
        caller: Annotated[Caller, Depends(reader)],
        query: Annotated[HistoryOfWeightsQuery, Query()],
    ) -> Response:
        """Return the weight of each feature by day, from the counts up to that day and the present configuration."""
        versions = LearningConfigVersions(settings, context.database, caller.namespace)
        with context.limit.slot(), learning_errors(), config_errors():
            try:
                request = HistoryRequest.of(retriever_id, query.days, query.level, query.segment, query.user_id)
                found = await read_history(
                    context.database, caller.namespace, await versions.get(retriever_id), request
                )
            except ScopeError as error:
                raise invalid([problem("bad_scope", ["query", error.parameter], str(error))]) from None
            return await json_response(found.body(caller.namespace))

    @router.get(
        "/v1/retrievers/{retriever_id}/weights/sessions", response_model=SessionsResponse, responses=error_responses()
    )
    async def get_session_use(
        retriever_id: RetrieverId, caller: Annotated[Caller, Depends(reader)], query: Annotated[RangeQuery, Query()]
    ) -> Response:
        """Compare executions whose weights used signals of the session with those whose weights did not."""
        scope = range_scope(settings, caller.namespace, retriever_id, query.since, query.until)
        with context.limit.slot(), learning_errors():
            found = await compare_session_use(settings, context.database, scope)
            return await json_response(sessions_body(found))
