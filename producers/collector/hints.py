"""Hints whether a just accepted event repeats one of the last minutes that came through this API.

The consumer decides, from the log. Hints exist only for single events of this API, not for batches, imports and the
Python producer. Two simultaneous requests may be hinted in another order than that of the log.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from runtime.http.best_effort import BestEffortRedis
from runtime.redis import Redis
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait, start
from schemas.dedup import dedup_key
from schemas.identity import id_bytes, id_from_bytes
from schemas.wire import WireEvent

MAX_PIPELINED = 500
_ID_BYTES = 16


class _HintRequest(NamedTuple):
    key: bytes
    raw_id: bytes
    answer: "asyncio.Future[str | None]"


class DuplicateHints:
    """First event of each key within the deduplication window, at about 130 bytes in Redis.

    Simultaneous requests share a Redis pipeline: single calls would take a sixth of a request's time.
    """

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._prefix = f"{settings.key_prefix}:hint:".encode()
        self._window_ms = settings.dedup_window_ms
        self._redis = redis
        self._waiting: list[_HintRequest] = []
        self._asking: asyncio.Task[None] | None = None

    async def first(
        self, namespace: str, event: WireEvent, idempotency_key: str | None, interaction_id: str
    ) -> str | None:
        """Return the id of the event that this one probably repeats; None for the first one, or without Redis."""
        key = dedup_key(namespace, event.execution_id, event.feature_id, event.interaction_type, idempotency_key)
        if key is None:
            return None
        question = _HintRequest(
            self._prefix + key, id_bytes(interaction_id), asyncio.get_running_loop().create_future()
        )
        self._waiting.append(question)
        if self._asking is None or self._asking.done():
            self._asking = start(self._ask_all(), "asking Redis for hints")
        return await question.answer

    async def close(self) -> None:
        """Cancel pending calls; requests that still wait get no hint."""
        await cancel_and_wait(self._asking)

    async def _ask_all(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[:MAX_PIPELINED], self._waiting[MAX_PIPELINED:]
            known: Sequence[Any] | None = None
            try:
                known = await self._redis.ask("hint", partial(self._ask, asked))
            finally:  # no request may wait for ever
                for question, first in zip(asked, known or [None] * len(asked), strict=True):
                    if not question.answer.done():  # cancelled by a client that left
                        is_id = isinstance(first, bytes) and len(first) == _ID_BYTES
                        question.answer.set_result(id_from_bytes(first) if is_id else None)
        self._asking = None

    async def _ask(self, asked: Sequence[_HintRequest], redis: Redis) -> list[Any]:
        pipeline = redis.pipeline(transaction=False)
        for question in asked:
            pipeline.set(question.key, question.raw_id, nx=True, get=True, px=self._window_ms)
        found: list[Any] = await pipeline.execute()
        return found
