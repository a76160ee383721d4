"""Stop of a worker: its work may end within a deadline."""

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from runtime.errors import Unavailable
from runtime.tasks import cancel_and_wait

T = TypeVar("T")


class Stopping:
    """Stop request of a worker, with a deadline."""

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._deadline = math.inf
        self.event = asyncio.Event()
        """Set once the worker is to stop."""

    def begin(self) -> None:
        """Stop within the timeout; a second call does not lengthen it."""
        self._deadline = min(self._deadline, time.monotonic() + self._timeout_ms / 1000)
        self.event.set()

    async def within_deadline(self, failure: str, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; once the worker is to stop, only until the deadline. Raises Unavailable with `failure`."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self.event.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            grace_s = max(0.0, self._deadline - time.monotonic()) if self.event.is_set() else None
            await asyncio.wait((working,), timeout=grace_s)
            if not working.done():
                raise Unavailable(
                    f"{failure} within TALLY_STOP_TIMEOUT_MS={self._timeout_ms}; "
                    "nothing of it is committed, and the next run repeats it"
                )
            return working.result()
        finally:
            await cancel_and_wait(stopping, working)
