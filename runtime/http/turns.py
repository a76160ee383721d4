"""Turns: work that holds the event loop for milliseconds runs one piece at a time."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

SMALL_BYTES = 2 * 1024
"""Work on an input of up to this size takes well under a millisecond, and needs no turn."""

Result = TypeVar("Result")


class Turns:
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
