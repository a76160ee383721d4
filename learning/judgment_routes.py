"""Endpoint of judgments."""

import asyncio
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field

from learning.context import LearningContext
from learning.estimators.curve import CLIP
from learning.estimators.judging import PRIOR_STRENGTH
from learning.judgments import JudgmentMethod, JudgmentRequest, Judgments, judge, parse_thresholds
from learning.scope import MAX_TEXT_BYTES, ScopeError
from learning.scope_query import RetrieverId, ScopeQuery, learning_errors
from learning.target_policy import normalized_query
from runtime.http import openapi
from runtime.http.access import Caller
from runtime.http.answer import json_answer
from runtime.http.errors import invalid, problem
from schemas.event_time import iso_ms
from schemas.rewards import GRADE_THRESHOLDS, MAX_REWARD, RewardMap, parse_rewards

MAX_ROWS = 100_000


class JudgmentQuery(ScopeQuery):
    """Judgments from a range of event time. Methods ignore the parameters of others."""

    method: JudgmentMethod = Field("ctr", description="ctr, coec, ips or graded")
    min_impressions: int = Field(1, ge=1, le=2**31 - 1, description="fewest impressions of an item that is listed")
    limit: int = Field(1_000, ge=1, le=MAX_ROWS, description="maximum judgments of the answer")
    query: str | None = Field(
        None, max_length=MAX_TEXT_BYTES, description="judgments for this query alone; its text is normalised"
    )
    prior_strength: float = Field(PRIOR_STRENGTH, ge=0.1, le=1e6, description="of ctr: weight of the prior")
    clip: float = Field(CLIP, ge=1, le=1e9, description="of ips: largest weight of a click")
    rewards: str | None = Field(None, max_length=2_000, description="of graded: click=1,purchase=3, or as JSON")
    max_reward: float = Field(MAX_REWARD, ge=0.1, le=100, description="of graded: largest reward of an interaction")
    grades: str = Field(
        ",".join(f"{each:g}" for each in GRADE_THRESHOLDS),
        max_length=200,
        description="of graded: lowest rewards of grades 2, 3 and 4",
    )

    def request(self) -> JudgmentRequest:
        """Return the request of a method. Raises ApiError 422."""
        try:
            rewards = (
                RewardMap(most=self.max_reward)
                if self.rewards is None
                else parse_rewards(self.rewards, self.max_reward)
            )
        except ValueError as error:
            raise invalid([problem("bad_rewards", ["query", "rewards"], str(error))]) from None
        try:
            return JudgmentRequest(
                self.method,
                self.min_impressions,
                self.prior_strength,
                self.clip,
                rewards,
                parse_thresholds(self.grades),
            ).checked()
        except ScopeError as error:
            raise invalid([problem("bad_scope", ["query", error.parameter], str(error))]) from None


class JudgmentRow(BaseModel):
    """Judgment of a document for a query. Null: the method has no interval."""

    query: str
    document: str
    value: float
    low: float | None
    high: float | None
    grade: int = Field(description="0 to 4; of a rate: 4 times the value over the highest value of the query, rounded")
    impressions: int
    clicks: int
    effective_n: float


class JudgmentResponse(BaseModel):
    """Judgments in order of query, value (highest first) and document."""

    retriever_id: str
    namespace: str
    method: JudgmentMethod
    since: datetime
    until: datetime
    judgments: list[JudgmentRow]
    notes: list[str] = Field(description="remarks about what was left out")
    truncated: bool = Field(description="whether the limit left judgments out")


def add_judgment_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoint of judgments."""

    @router.get(
        "/v1/retrievers/{retriever_id}/judgments",
        response_model=JudgmentResponse,
        responses=openapi.error_responses(),
    )
    async def get_judgments(
        retriever_id: RetrieverId,
        caller: Annotated[Caller, Depends(context.reader)],
        query: Annotated[JudgmentQuery, Query()],
    ) -> Response:
        """Judge how good each document is for each query, from the events of a range. Rates have 95 % intervals."""
        scope = query.scope(context.settings, caller.namespace, retriever_id)
        request = query.request()
        with context.limit.slot(), learning_errors():
            found = await judge(context.settings, context.database, scope, request)
            return await asyncio.to_thread(_response, found, query)


def _response(found: Judgments, query: JudgmentQuery) -> Response:
    if query.query is not None:
        found = found.of_query(normalized_query(query.query))
    scope, most = found.scope, query.limit
    body = {
        "retriever_id": scope.retriever,
        "namespace": scope.namespace,
        "method": found.method,
        "since": iso_ms(scope.since),
        "until": iso_ms(scope.until),
        "judgments": [row._asdict() for row in found.rows(most)],
        "notes": found.notes,
        "truncated": len(found) > most,
    }
    return json_answer(body).response()
