"""Rounds: work that has arrived together is served together, one round at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from runtime.tasks import cancel_and_wait, start

PAUSE_PER_ITEM_S = 0.000_2
"""Pause for each item of a round. It makes rounds grow only while more than one item arrives in this time."""
LEAST_PAUSE_S = 0.001
"""Shorter pauses are left out: the event loop waits for whole milliseconds."""


class Item(Protocol):
    """Item of a round. Its `future` is done once the item has been served or has failed."""

    @property
    def future(self) -> "asyncio.Future[object]": ...


AnyItem = TypeVar("AnyItem", bound=Item)


class Rounds(Generic[AnyItem]):
    """Queue that is served in rounds.

    A round is everything that has arrived, up to `max_items`. It begins in the next iteration of the event loop. While
    a round is being served, new items gather for the next one. With `max_pause_s` they also gather for some time after
    the start of a round of several items, so that there are fewer rounds under load.

    `serve` completes the futures of its items, during the round or later. If it raises, the error becomes the result of
    each item that has none.
    """

    def __init__(
        self,
        serve: Callable[[list[AnyItem]], Awaitable[None]],
        purpose: str,
        *,
        max_items: int = 1_000,
        max_pause_s: float = 0,
    ) -> None:
        self._serve = serve
        self._purpose = purpose
        self._max_items = max_items
        self._max_pause_s = max_pause_s
        self._not_before = 0.0
        """Time of the event loop before which no round begins."""
        self._waiting: deque[AnyItem] = deque()
        self._serving: asyncio.Task[None] | None = None

    def add(self, item: AnyItem) -> None:
        """Add an item to the next round."""
        self._waiting.append(item)
        if self._serving is None:
            self._serving = start(self._serve_all(), self._purpose)

    async def finish(self) -> None:
        """Return once everything that was added has been served."""
        while self._serving is not None:
            await asyncio.wait([self._serving])

    async def close(self) -> None:
        """Cancel the running round. Items without a result are cancelled, too."""
        await cancel_and_wait(self._serving)
        for item in self._waiting:
            item.future.cancel()

    async def _serve_all(self) -> None:
        try:
            now = asyncio.get_running_loop().time
            while self._waiting:
                if (pause_s := self._not_before - now()) > 0:
                    await asyncio.sleep(pause_s)
                items = [self._waiting.popleft() for _ in range(self._next_size())]
                pause_s = min(self._max_pause_s, len(items) * PAUSE_PER_ITEM_S)
                self._not_before = now() + pause_s if pause_s >= LEAST_PAUSE_S else 0.0
                await self._serve_round(items)
        finally:  # at once: an item of this same iteration must not wait for a task that has ended
            self._serving = None

    def _next_size(self) -> int:
        return min(len(self._waiting), self._max_items)

    async def _serve_round(self, items: list[AnyItem]) -> None:
        try:
            await self._serve(items)
        except Exception as error:
            for item in items:
                if not item.future.done():
                    item.future.set_exception(error)
        except asyncio.CancelledError:
            for item in items:
                item.future.cancel()
            raise
