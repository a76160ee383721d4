"""Emission of lines of JSON. It needs the core dependencies only."""

import asyncio
import os
import queue
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import BinaryIO, NamedTuple, TypeVar

from producers.lines import read_lines
from producers.producer import NotAccepted, Producer, Receipt
from runtime.errors import TallyError
from runtime.settings import Settings
from schemas.interaction import Interaction
from schemas.rejection import Rejection
from tally.pace import at_rate

Item = TypeVar("Item")

_QUEUED_ITEMS = 1_000
"""Maximum items that are read and not yet consumed."""


async def emit_lines(
    settings: Settings,
    file: str,
    *,
    namespace: str | None,
    rate: float | None,
    refused: Callable[[int, Rejection], None],
    emitted: Callable[[Receipt | NotAccepted], None],
) -> None:
    """Emit each line of a file (- is standard input), at no more than `rate` events per second (None: unlimited).

    Calls `refused` with the number of each line that is no valid event, from another thread, and `emitted` for the
    others. Raises TallyError when the file cannot be read, Unavailable when Kafka does not answer.
    """

    def valid_lines() -> Iterator[Interaction]:
        with _open(file) as stream:
            for number, content in read_lines(stream):
                if isinstance(content, Rejection):
                    refused(number, content)
                else:
                    yield content

    async with Producer(settings) as producer:
        lines = at_rate(read_in_background(valid_lines()), rate)
        async for result in producer.emit_many(lines, namespace=namespace):
            emitted(result)


def _open(file: str) -> BinaryIO:
    if file == "-" and sys.stdin is None:
        raise TallyError("cannot read from standard input: it is closed")
    try:
        # A descriptor of its own: at its exit the interpreter waits for a thread that reads from sys.stdin.
        return os.fdopen(os.dup(0), "rb") if file == "-" else Path(file).open("rb")
    except OSError as error:
        raise TallyError(f"cannot read {file}: {error.strerror}") from error


class _End(NamedTuple):
    """End of the items, with the error that ended them."""

    error: BaseException | None


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
        ended_by = None
        try:
            for item in items:
                put(item)
        except Exception as error:
            ended_by = error
        put(_End(ended_by))

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
