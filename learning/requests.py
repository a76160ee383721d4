"""Bodies of requests to the endpoints of learning."""

import asyncio
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from learning.context import LearningContext
from runtime.http.body import MAX_KEYS as MAX_BODY_KEYS
from runtime.http.body import read_body, read_json, read_model

MAX_KEYS = 10_000
"""Maximum keys of an object in an evaluation, such as the graded documents of one query."""

Body = TypeVar("Body", bound=BaseModel)


async def read_evaluation(request: Request, context: LearningContext, model: type[Body]) -> Body:
    """Read a body of at most TALLY_EVALUATION_BYTES as a model. Raises ApiError."""
    return await _read_bounded(request, context, model, context.settings.evaluation_bytes, MAX_KEYS)


async def read_request(request: Request, context: LearningContext, model: type[Body]) -> Body:
    """Read a body of at most TALLY_HTTP_BODY_BYTES as a model. Raises ApiError."""
    return await _read_bounded(request, context, model, context.settings.http_body_bytes, MAX_BODY_KEYS)


async def read_value(request: Request, context: LearningContext) -> Any:
    """Read a JSON body of at most TALLY_HTTP_BODY_BYTES; None for an empty one. Raises ApiError."""
    with context.body_limit.slot():
        body = await _read(request, context, context.settings.http_body_bytes)
        return await asyncio.to_thread(read_json, body)


async def read_draft(request: Request, context: LearningContext, model: type[Body]) -> Body:
    """Read a body of at most TALLY_HTTP_BODY_BYTES as a model, counted towards the limit of drafts. Raises ApiError."""
    with context.draft_limit.slot():
        return read_model(model, await _read(request, context, context.settings.http_body_bytes))


async def _read_bounded(
    request: Request, context: LearningContext, model: type[Body], limit_bytes: int, max_keys: int
) -> Body:
    """Read and parse a body, in a thread. Outside of the slots of estimates, which a slow client would occupy."""
    with context.body_limit.slot():
        body = await _read(request, context, limit_bytes)
        return await asyncio.to_thread(read_model, model, body, max_keys)


async def _read(request: Request, context: LearningContext, limit_bytes: int) -> bytes:
    timeout_ms = context.settings.http_body_timeout_ms
    return await read_body(request.scope, request.receive, limit_bytes, timeout_ms, lambda _size: None)
