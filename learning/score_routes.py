"""Endpoints that score rankings: stateless, with nothing stored."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from learning.context import LearningContext
from learning.requests import read_evaluation
from learning.scoring import GateRequest, GateResponse, ScoreRequest, ScoreResponse, judge, score
from runtime.http.access import Caller
from runtime.http.answer import Answer
from runtime.http.openapi import error_responses, request_body

_SCORE_EXAMPLE = {
    "items": [{"predicted": ["doc-3", "doc-1"], "ground_truth": ["doc-1", "doc-2"]}],
    "metrics": ["precision", "recall", "ndcg"],
    "k": 10,
}
_GATE_EXAMPLE = {
    "items": [
        {"query_id": "q1", "baseline": ["doc-3", "doc-1"], "candidate": ["doc-1", "doc-3"], "ground_truth": ["doc-1"]}
    ],
    "primary": "ndcg@10",
    "guards": ["recall@20"],
}


def add_score_routes(router: APIRouter, context: LearningContext) -> None:
    """Add the endpoints `score` and `gate`. Their work counts towards the limit."""
    reader, settings = context.reader, context.settings

    @router.post(
        "/v1/evaluations/score",
        responses=error_responses(408, 413, 415, ok=ScoreResponse),
        openapi_extra=request_body(ScoreRequest.model_json_schema(), _SCORE_EXAMPLE),
    )
    async def score_predictions(request: Request, _caller: Annotated[Caller, Depends(reader)]) -> Response:
        """Score predicted documents against relevant ones: a value per item, and means with 95 % intervals."""
        body = await read_evaluation(request, context, ScoreRequest)
        with context.limit.slot():
            return await asyncio.to_thread(lambda: _answer(score(settings, body)))

    @router.post(
        "/v1/evaluations/gate",
        responses=error_responses(408, 413, 415, ok=GateResponse),
        openapi_extra=request_body(GateRequest.model_json_schema(), _GATE_EXAMPLE),
    )
    async def judge_candidate(request: Request, _caller: Annotated[Caller, Depends(reader)]) -> Response:
        """Say whether a candidate may replace a baseline: the primary metric rose, and no guard metric fell."""
        body = await read_evaluation(request, context, GateRequest)
        with context.limit.slot():
            return await asyncio.to_thread(lambda: _answer(judge(settings, body)))


def _answer(found: ScoreResponse | GateResponse) -> Response:
    return Answer.of(200, found.model_dump_json().encode()).response()
