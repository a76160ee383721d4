"""Hints whether a just accepted event repeats one of the last minutes that came through this API.

The consumer decides, from the log. Hints exist only for single events of this API, not for batches, imports and the
Python producer. Two simultaneous requests may be hinted in another order than that of the log.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from redis.asyncio import RedisCluster

from runtime.http.best_effort import BestEffortRedis
from runtime.redis import Redis
from runtime.rounds import Rounds
from runtime.settings import Settings
from schemas.identity import id_bytes, id_from_bytes

MAX_TOGETHER = 500
"""Maximum hints of one call of Redis, which takes about a millisecond of it."""
_ID_BYTES = 16

# KEYS are deduplication keys. ARGV: milliseconds that they are kept, and an id for each. Returns the ids set before.
_SET_FIRST = """
local found = {}
for at, key in ipairs(KEYS) do
    found[at] = redis.call("SET", key, ARGV[at + 1], "NX", "GET", "PX", ARGV[1])
end
return found
"""


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

    Simultaneous requests share a call of Redis: a command of its own costs each about as much as the rest of a create.
    """

    def __init__(self, settings: Settings, redis: BestEffortRedis) -> None:
        self._prefix = f"{settings.key_prefix}:hint:".encode()
        self._window_ms = settings.dedup_window_ms
        self._redis = redis
        self._rounds = Rounds[HintRequest](self._serve, "asking Redis for hints", max_items=MAX_TOGETHER)

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
        keys = [self._prefix + request.key for request in asked]
        ids = [id_bytes(request.interaction_id) for request in asked]
        if isinstance(redis, RedisCluster):  # whose scripts may use the keys of one slot only
            pipeline = redis.pipeline(transaction=False)
            for key, raw_id in zip(keys, ids, strict=True):
                pipeline.set(key, raw_id, nx=True, get=True, px=self._window_ms)
            found: list[Any] = await pipeline.execute()
        else:
            found = await redis.eval(_SET_FIRST, len(keys), *keys, self._window_ms, *ids)
        return found
