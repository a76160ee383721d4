"""Memory of a worker process: malloc arenas and the garbage collector."""

import asyncio
import ctypes
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.tasks import running

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Option numbers of glibc's mallopt(3)."""
ARENAS = 2
"""Heaps of the process. With glibc's default of one per thread a worker at full speed takes 56 MiB more: the same batch
fragments each of them."""
LARGE_BYTES = 4 * 1024 * 1024
"""Blocks of this size and more are returned to the system when freed: texts of batches, fetches, tables of claims."""
COLLECT_EVERY_S = 5.0


def limit_malloc_arenas() -> None:
    """Limit the heaps of this process; without effect where the C library is not glibc."""
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", None)
        if set_option is not None:
            set_option(_M_ARENA_MAX, ARENAS)
            set_option(_M_MMAP_THRESHOLD, LARGE_BYTES)


@asynccontextmanager
async def periodic_gc() -> AsyncIterator[None]:
    """Collect garbage every COLLECT_EVERY_S seconds and not otherwise while the block lasts.

    A batch makes no cycles, so a collection per 700 new objects would find nothing. Cycles come from failed requests,
    whose tracebacks hold the request: hence the collection by time, also while a store is unavailable.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        async with running(_collect(), "collecting garbage"):
            yield
    finally:
        gc.enable()
        gc.unfreeze()


async def _collect() -> None:
    while True:
        await asyncio.sleep(COLLECT_EVERY_S)
        gc.collect()
