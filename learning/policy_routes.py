"""Endpoint of off-policy estimates."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from learning.context import LearningContext
from learning.estimators.off_policy import OffPolicyEstimator, PolicyValue, WeightSummary
from learning.policies import ESTIMATORS, PolicyRequest, evaluate_policy
from learning.requests import read_request
from learning.scope import MAX_TEXT_BYTES, LearningScope, ScopeError
from learning.scope_query import DEFAULT_RANGE, learning_errors
from learning.target_policy import PolicyError, TargetPolicy, parse_uniform, policy_table
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import invalid, problem
from runtime.http.openapi import request_body
from runtime.http.times import Time
from runtime.settings import Settings
from schemas.event_time import iso_ms
from schemas.interaction import InteractionType
from schemas.rewards import MAX_REWARD, RewardMap

PATH = "/v1/evaluations/off-policy"


class OffPolicyRequest(BaseModel):
    """Policy to evaluate on the results that a retriever showed in a range of event time, by default of seven days."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    retriever_id: str = Field(min_length=1, max_length=MAX_TEXT_BYTES)
    policy: str | list[Any] = Field(
        description="uniform, uniform:N, or entries {query?, document, position?, probability} whose probabilities sum "
        "to 1 for each query and position"
    )
    reward: InteractionType | None = Field(None, description="type that has reward 1; default: click")
    rewards: dict[InteractionType, float] | None = Field(None, description="rewards by type, instead of `reward`")
    max_reward: float = Field(MAX_REWARD, ge=0.1, le=100)
    estimators: list[OffPolicyEstimator] = Field(list(ESTIMATORS), min_length=1, max_length=len(ESTIMATORS))
    min_ess: float | None = Field(None, ge=1, le=1e9, description="default: TALLY_MIN_ESS")
    max_weight: float | None = Field(None, ge=0.001, le=1e12, description="clip larger weights to this one")
    since: Time | None = None
    until: Time | None = None

    def reward_map(self) -> RewardMap:
        """Return the rewards. Raises ApiError 422 if both forms are given."""
        if self.rewards is None:
            return RewardMap({self.reward or "click": 1.0}, self.max_reward)
        if self.reward is not None:
            raise invalid([problem("bad_policy", ["body", "reward"], "choose reward or rewards")])
        return RewardMap(self.rewards, self.max_reward)

    def target(self) -> TargetPolicy:
        """Return the policy. Raises ApiError 422."""
        try:
            if not isinstance(self.policy, str):
                return policy_table(self.policy)
            found = parse_uniform(self.policy)
        except PolicyError as error:
            raise invalid([problem("bad_policy", ["body", "policy"], str(error))]) from None
        if found is None:
            raise invalid([problem("bad_policy", ["body", "policy"], "write uniform, uniform:N or a list of entries")])
        return found

    def scope(self, settings: Settings, namespace: str) -> LearningScope:
        """Return the scope. Raises ApiError 422."""
        until = self.until or datetime.now(UTC)
        since = self.since or until - DEFAULT_RANGE
        try:
            return LearningScope(namespace, self.retriever_id, since, until, query_path=settings.query_path).checked()
        except ScopeError as error:
            name = {"retriever": "retriever_id"}.get(error.parameter, error.parameter)
            raise invalid([problem("bad_scope", ["body", name], str(error))]) from None


class OffPolicyResponse(BaseModel):
    """Estimates of the mean reward of a result under the policy, beside that of the log."""

    retriever_id: str
    since: datetime
    until: datetime
    logged: PolicyValue
    estimates: list[PolicyValue]
    difference: PolicyValue = Field(description="ips minus logged, from the same results")
    weights: WeightSummary
    left_out: int = Field(description="results for whose query and position the policy has no probabilities")
    unseen_share: float = Field(description="share of the policy on documents that the log never shows there")
    warnings: list[str]
    notes: list[str]


_EXAMPLE = {"retriever_id": "random", "policy": "uniform:80", "since": "2019-11-01", "until": "2019-12-31"}


def add_policy_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoint of off-policy estimates."""
    settings = context.settings

    @router.post(
        PATH,
        response_model=OffPolicyResponse,
        responses=openapi.error_responses(408, 413, 415),
        openapi_extra=request_body(OffPolicyRequest.model_json_schema(), _EXAMPLE),
    )
    async def evaluate_off_policy(request: Request, caller: Annotated[Caller, Depends(context.reader)]) -> Response:
        """Estimate what the mean reward of a result would have been under another policy.

        422 with code `refused` where the log cannot answer: propensities are missing, or the policy shows what the
        log rarely or never shows.
        """
        asked = await read_request(request, context, OffPolicyRequest)
        with context.limit.slot():
            scope = asked.scope(settings, caller.namespace)
            policy = await asyncio.to_thread(asked.target)
            wanted = PolicyRequest(
                scope, policy, asked.reward_map(), tuple(asked.estimators), asked.min_ess, asked.max_weight
            )
            with learning_errors():
                found = await evaluate_policy(settings, context.database, wanted)
        named = {"retriever_id": scope.retriever, "since": iso_ms(scope.since), "until": iso_ms(scope.until)}
        return json_answer({**named, **found.described()}).response()
