"""Queues that bound the work of one event-loop iteration, so that sockets are polled in between."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

SMALL_BYTES = 2 * 1024
"""Inputs up to this size take well under a millisecond, and are not queued."""

STARTED_TOGETHER = 32
"""Maximum requests started in one iteration; each starts with some tenths of a millisecond of work."""

Result = TypeVar("Result")


class TurnQueue:
    """Queue of work of which the event loop runs one piece per iteration.

    Without it a hundred simultaneous requests would block the loop for a hundred pieces in a row.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, size: int, work: Callable[[], Result]) -> Result:
        """Run `work` on an input of `size` bytes, and return its result."""
        if size <= SMALL_BYTES:
            return work()
        async with self._lock:
            try:
                return work()
            finally:
                await asyncio.sleep(0)  # with the lock held: the next piece runs after all ready callbacks


class StartQueue:
    """Queue that starts at most STARTED_TOGETHER requests per event-loop iteration."""

    def __init__(self) -> None:
        self._left = STARTED_TOGETHER
        self._waiting: deque[Callable[[], None]] = deque()

    def start(self, loop: asyncio.AbstractEventLoop, begin: Callable[[], None]) -> None:
        """Call `begin` now or in a later iteration, in order."""
        if self._left == STARTED_TOGETHER:
            loop.call_soon(self._next_round, loop)
        if self._left and not self._waiting:
            self._left -= 1
            begin()
        else:
            self._waiting.append(begin)

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = STARTED_TOGETHER
        if self._waiting:
            loop.call_soon(self._next_round, loop)
        while self._waiting and self._left:
            self._left -= 1
            self._waiting.popleft()()
