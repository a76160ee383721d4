"""Iteration in a thread over items that may block, such as lines of standard input."""

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")

_QUEUED_ITEMS = 1_000
"""Maximum items that are read and not yet consumed."""


class _End:
    """End of the items, with the error that ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


async def read_in_background(items: Iterator[Item]) -> AsyncIterator[Item]:
    """Yield from `items`, which a daemon thread reads. Raises the errors of `items`.

    Neither Ctrl-C nor the end of the process waits for the thread, unlike one of `asyncio.to_thread`: it may be
    reading from a terminal.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(_QUEUED_ITEMS)
    loop, has_items = asyncio.get_running_loop(), asyncio.Event()

    def put(item: Item | _End) -> None:
        ready.put(item)
        if not has_items.is_set():
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(has_items.set)

    def read() -> None:
        try:
            for item in items:
                put(item)
        except Exception as error:
            put(_End(error))
        else:
            put(_End(None))

    Thread(target=read, name="reading", daemon=True).start()
    while True:
        await has_items.wait()
        has_items.clear()
        while not ready.empty():
            item = ready.get_nowait()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
