"""Results in formats with a frame around all rows, which the engine writes into a pipe while the front reads it."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

_READ_BYTES = 1024 * 1024


def piped(write: Callable[[str], object]) -> Iterator[bytes]:
    """Yield the bytes that `write` writes to the path that it gets, then raise its error, if any.

    `write` runs in a thread of its own, and waits while nothing is read. Closing the iterator breaks the pipe, which
    ends `write`.
    """
    reading, writing = os.pipe()

    def run() -> None:
        try:
            write(f"/dev/fd/{writing}")
        finally:
            os.close(writing)

    with ThreadPoolExecutor(1, thread_name_prefix="pipe") as thread, os.fdopen(reading, "rb", buffering=0) as pipe:
        written = thread.submit(run)
        while block := pipe.read(_READ_BYTES):
            yield block
        written.result()
