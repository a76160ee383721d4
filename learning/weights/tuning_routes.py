"""Endpoints of what-if estimates and of recommendations for a learning configuration."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from learning.context import LearningContext
from learning.estimators.decision_values import DecisionWeights
from learning.estimators.off_policy import PolicyValue
from learning.requests import read_request
from learning.scope import LearningScope, Refusal, ScopeError
from learning.scope_query import DEFAULT_RANGE, RetrieverId, learning_errors
from learning.weights.config_text import ConfigError
from learning.weights.tuning import MeanWeight, WhatIfRequest, estimate_what_if
from learning.weights.tuning_recommendations import analyze_tuning
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import ApiError, invalid, problem
from runtime.http.openapi import request_body
from runtime.http.times import Time
from runtime.settings import Settings
from schemas.event_time import iso_ms
from schemas.interaction import InteractionType
from schemas.rewards import MAX_REWARD, RewardMap

MAX_DAYS = 90
_EXAMPLE = {"changes": {"decay_factor": 0.99, "reward_map": {"click": 1, "purchase": 3}}, "since": "2026-11-01"}


class WhatIfBody(BaseModel):
    """Changes of the learning configuration to evaluate in a range of event time, by default of seven days."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    changes: dict[str, Any] = Field(description="values by the names of the learning configuration", max_length=20)
    measure: dict[InteractionType, float] | None = Field(
        None, description="rewards by which both are measured; default: those of the configuration in force"
    )
    max_reward: float | None = Field(None, ge=0.1, le=100, description="largest reward of one event, with `measure`")
    min_ess: float | None = Field(None, ge=1, le=1e9, description="default: TALLY_MIN_ESS")
    since: Time | None = None
    until: Time | None = None

    def rewards(self) -> RewardMap | None:
        """Return the rewards by which both configurations are measured. Raises ApiError 422."""
        if self.measure is None:
            if self.max_reward is not None:
                raise invalid([problem("bad_change", ["body", "max_reward"], "is for `measure`, which is not given")])
            return None
        return RewardMap(self.measure, MAX_REWARD if self.max_reward is None else self.max_reward)


class LeftOutExecutions(BaseModel):
    """Executions that are in no estimate, for one reason."""

    reason: str
    meaning: str
    executions: int


class WhatIfResponse(BaseModel):
    """Reward per execution as logged and as expected under the changed configuration."""

    retriever_id: str
    since: datetime
    until: datetime
    config_version: int = Field(description="of the configuration in force")
    changes: dict[str, Any] = Field(description="values in force and changed, by name")
    measure: dict[str, Any] = Field(description="rewards by which both are measured")
    logged: PolicyValue
    estimates: list[PolicyValue]
    difference: PolicyValue = Field(description="snips minus logged, from the same executions")
    decisions: DecisionWeights
    weights: list[MeanWeight]
    executions: int = Field(description="executions of the range, those that are left out included")
    left_out: list[LeftOutExecutions]
    warnings: list[str]
    notes: list[str]


class TimeRange(BaseModel):
    """Range of event time."""

    start: datetime
    end: datetime


class TuningRecommendation(BaseModel):
    """Change of one value whose estimated difference is above 0."""

    recommendation_type: str
    current_value: Any
    recommended_value: Any
    expected_impact: str
    confidence: float = Field(ge=0, le=1)
    reasoning: str


class TuningResponse(BaseModel):
    """Recommended changes, and the performance of the configuration in force."""

    retriever_id: str
    analysis_period: TimeRange
    recommendations: list[TuningRecommendation]
    current_performance: dict[str, Any]


class TuningQuery(BaseModel):
    """Last days to analyze."""

    model_config = ConfigDict(extra="forbid")

    days: int = Field(7, ge=1, le=MAX_DAYS)


def add_tuning_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints of what-if estimates and recommendations."""
    settings = context.settings

    @router.post(
        "/v1/retrievers/{retriever_id}/weights/whatif",
        response_model=WhatIfResponse,
        responses=openapi.error_responses(408, 413, 415),
        openapi_extra=request_body(WhatIfBody.model_json_schema(), _EXAMPLE),
    )
    async def estimate_whatif(
        request: Request, retriever_id: RetrieverId, caller: Annotated[Caller, Depends(context.reader)]
    ) -> Response:
        """Estimate the reward per execution under a changed learning configuration, from the decisions of the log.

        422 with code `refused` where the log cannot answer.
        """
        body = await read_request(request, context, WhatIfBody)
        until = body.until or datetime.now(UTC)
        scope = _scope(settings, caller, retriever_id, body.since or until - DEFAULT_RANGE, until)
        wanted = WhatIfRequest(scope, body.changes, body.rewards(), body.min_ess)
        with context.limit.slot(), learning_errors():
            try:
                compared, found = await estimate_what_if(settings, context.database, wanted)
            except ConfigError as error:
                raise _bad_changes(error) from None
        named = {"retriever_id": retriever_id, "since": iso_ms(scope.since), "until": iso_ms(scope.until)}
        return json_answer({**named, **compared.described(), **found.described()}).response()

    @router.post(
        "/v1/analytics/retrievers/{retriever_id}/analyze-tuning",
        response_model=TuningResponse,
        responses=openapi.error_responses(),
    )
    async def analyze_for_tuning(
        retriever_id: RetrieverId,
        query: Annotated[TuningQuery, Query()],
        caller: Annotated[Caller, Depends(context.reader)],
    ) -> Response:
        """Recommend changes of the learning configuration whose estimated difference in reward is above 0.

        Where the log cannot answer, there are no recommendations, and `current_performance` has the reason.
        """
        until = datetime.now(UTC)
        scope = _scope(settings, caller, retriever_id, until - timedelta(days=query.days), until)
        recommendations: list[dict[str, Any]] = []
        with context.limit.slot(), learning_errors():
            try:
                found = await analyze_tuning(settings, context.database, scope)
            except Refusal as refusal:
                performance: dict[str, Any] = {"reason": str(refusal)}
            else:
                recommendations, performance = found.recommended(), found.performance()
        answer = {
            "retriever_id": retriever_id,
            "analysis_period": {"start": iso_ms(scope.since), "end": iso_ms(scope.until)},
            "recommendations": recommendations,
            "current_performance": performance,
        }
        return json_answer(answer).response()


def _bad_changes(error: ConfigError) -> ApiError:
    return invalid(
        [problem("bad_change", ["body", "changes", *each.location], each.message) for each in error.problems]
    )


def _scope(settings: Settings, caller: Caller, retriever: str, since: datetime, until: datetime) -> LearningScope:
    """Return the scope of a request. Raises ApiError 422."""
    try:
        return LearningScope(caller.namespace, retriever, since, until, query_path=settings.query_path).checked()
    except ScopeError as error:
        place = ["path", "retriever_id"] if error.parameter == "retriever" else ["body", error.parameter]
        raise invalid([problem("bad_scope", place, str(error))]) from None
