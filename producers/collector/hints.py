"""Hints whether a just accepted event repeats one of the last minutes that came through this API.

The consumer decides, from the log. Hints exist only for single events of this API, not for batches, imports and the
Python producer. Two simultaneous requests may be hinted in another order than that of the log.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from runtime.http.best_effort import BestEffortRedis
from runtime.redis import Redis
from runtime.rounds import Rounds
from runtime.settings import Settings
from schemas.identity import id_bytes, id_from_bytes

MAX_PIPELINED = 500
_ID_BYTES = 16


class HintRequest(NamedTuple):
    """Request for the event that another one repeats, by its deduplication key."""

    key: bytes
    interaction_id: str
    answer: Callable[[str | None], None]
    """Function that takes the id of the event that this one probably repeats; None for the first one."""
    future: "asyncio.Future[Any]"
    """Future of the request. If it is done, nothing is answered."""


class DuplicateHints:
    """First event of each key within the deduplication window, at about 130 bytes in Redis.

    Simultaneous requests share a Redis pipeline: single calls would take a sixth of a request's time.
    """

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._prefix = f"{settings.key_prefix}:hint:".encode()
        self._window_ms = settings.dedup_window_ms
        self._redis = redis
        self._rounds = Rounds[HintRequest](self._serve, "asking Redis for hints", max_items=MAX_PIPELINED)

    def add(self, request: HintRequest) -> None:
        """Answer a request in the next round; without Redis with None."""
        self._rounds.add(request)

    async def close(self) -> None:
        """Cancel pending calls."""
        await self._rounds.close()

    async def _serve(self, asked: list[HintRequest]) -> None:
        known: Sequence[Any] | None = None
        try:
            known = await self._redis.ask("hint", partial(self._ask, asked))
        finally:  # Kafka has the events: whatever happens here, they are accepted
            for request, first in zip(asked, known or [None] * len(asked), strict=True):
                is_id = isinstance(first, bytes) and len(first) == _ID_BYTES
                request.answer(id_from_bytes(first) if is_id else None)

    async def _ask(self, asked: Sequence[HintRequest], redis: Redis) -> list[Any]:
        pipeline = redis.pipeline(transaction=False)
        for request in asked:
            raw_id = id_bytes(request.interaction_id)
            pipeline.set(self._prefix + request.key, raw_id, nx=True, get=True, px=self._window_ms)
        found: list[Any] = await pipeline.execute()
        return found
