"""Bodies of evaluation requests."""

import asyncio
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel

from runtime.http.body import read_body, read_model
from runtime.settings import Settings

MAX_KEYS = 10_000
"""Maximum keys of an object in an evaluation, such as the graded documents of one query."""

Body = TypeVar("Body", bound=BaseModel)


async def read_evaluation(request: Request, settings: Settings, model: type[Body]) -> Body:
    """Read a body of at most TALLY_EVALUATION_BYTES as a model, in a thread. Raises ApiError."""
    body = await read_body(
        request.scope, request.receive, settings.evaluation_bytes, settings.http_body_timeout_ms, lambda _size: None
    )
    return await asyncio.to_thread(read_model, model, body, MAX_KEYS)
