"""Best-effort calls of Redis: while it is down or slow, requests proceed without it, and are counted."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from runtime.errors import TallyError, Unavailable, reason_of
from runtime.faults.redis import REDIS_FAILED
from runtime.metrics import REDIS_BYPASSED
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait, start

RETRY_PAUSE_S = 1.0
"""Time after a failure during which no call waits for Redis."""

Result = TypeVar("Result")

log = logging.getLogger("tally.api")


class BestEffortRedis:
    """Redis connection that is opened on demand, and reopened after a failure."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.model_copy(update={"connect_timeout_ms": max(100, settings.redis_patience_ms)})
        self._patience_s = settings.redis_patience_ms / 1000
        self._open = AsyncExitStack()
        self._redis: Redis | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._not_before = 0.0

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["BestEffortRedis"]:
        """Start to connect; close the connection when the block ends."""
        self._connect()
        try:
            yield self
        finally:
            await cancel_and_wait(self._connecting)
            await self._open.aclose()

    async def ask(self, purpose: str, question: Callable[[Redis], Awaitable[Result]]) -> Result | None:
        """Call Redis. Return None when it misses TALLY_REDIS_PATIENCE_MS, or failed within RETRY_PAUSE_S."""
        if self._redis is None or time.monotonic() < self._not_before:
            self._connect()
            REDIS_BYPASSED.labels(purpose).inc()
            return None
        try:
            async with asyncio.timeout(self._patience_s):
                return await question(self._redis)
        except (*REDIS_FAILED, OSError, TimeoutError) as error:
            self._not_before = time.monotonic() + RETRY_PAUSE_S
            log.warning("%s: proceeding without Redis (TALLY_REDIS): %s", purpose, reason_of(error))
            REDIS_BYPASSED.labels(purpose).inc()
            return None

    async def check(self) -> None:
        """Raise Unavailable unless Redis answers."""
        if await self.ask("readiness", lambda connected: connected.ping()) is None:
            raise Unavailable("Redis does not answer")

    def _connect(self) -> None:
        if self._redis is None and self._connecting is None and time.monotonic() >= self._not_before:
            self._connecting = start(self._try_to_connect(), "connecting to Redis")

    async def _try_to_connect(self) -> None:
        try:
            self._redis = await self._open.enter_async_context(connect_redis(self._settings))
        except TallyError as error:
            log.warning("proceeding without Redis (TALLY_REDIS): %s", error)
            self._not_before = time.monotonic() + RETRY_PAUSE_S
        finally:
            self._connecting = None
