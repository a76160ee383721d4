"""Turns: how much the event loop does between two looks at its sockets."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

SMALL_BYTES = 2 * 1024
"""Work on an input of up to this size takes well under a millisecond, and needs no turn."""

STARTED_TOGETHER = 32
"""Requests of which each begins with some tenths of a millisecond of work."""

Result = TypeVar("Result")


class TurnQueue:
    """A queue for pieces of work, of which the event loop runs at most one between two looks at its sockets.

    Without it a hundred requests that arrive together would hold the loop for a hundred pieces in a row.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, size: int, work: Callable[[], Result]) -> Result:
        """Run `work`, whose input has `size` bytes, and return what it returns."""
        if size <= SMALL_BYTES:
            return work()
        async with self._lock:
            try:
                return work()
            finally:
                await asyncio.sleep(0)  # with the lock held: whoever waits comes after all that is ready now


class StartQueue:
    """Starts requests, STARTED_TOGETHER of them at most in one round of the event loop; further ones in the next."""

    def __init__(self) -> None:
        self._left = STARTED_TOGETHER
        self._waiting: deque[Callable[[], None]] = deque()

    def start(self, loop: asyncio.AbstractEventLoop, begin: Callable[[], None]) -> None:
        """Call `begin`, now or in one of the next rounds, in order."""
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
