"""Emission of lines of JSON. It needs the core dependencies only."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from producers.lines import read_lines
from producers.producer import NotAccepted, Producer, Receipt
from runtime.errors import TallyError
from runtime.settings import Settings
from schemas.interaction import Interaction
from schemas.rejection import Rejection
from tally.background import read_in_background
from tally.pace import Pace


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

    async def at_pace() -> AsyncIterator[Interaction]:
        pace = Pace(rate)
        async for interaction in read_in_background(valid_lines()):
            await pace.wait()
            yield interaction

    async with Producer(settings) as producer:
        async for result in producer.emit_many(at_pace(), namespace=namespace):
            emitted(result)


def _open(file: str) -> BinaryIO:
    if file == "-" and sys.stdin is None:
        raise TallyError("cannot read from standard input: it is closed")
    try:
        # A descriptor of its own: at its exit the interpreter waits for a thread that reads from sys.stdin.
        return os.fdopen(os.dup(0), "rb") if file == "-" else Path(file).open("rb")
    except OSError as error:
        raise TallyError(f"cannot read {file}: {error.strerror}") from error
