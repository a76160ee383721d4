"""The garbage collector, calmed down while a worker works.

What a batch makes holds no cycles, and is gone with the batch: looking through all there is, each time 700 objects more
have come about, would find nothing. Cycles come from failed requests, whose tracebacks hold what was to be sent: so
there is a collection every few seconds, also while a store is away.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runtime.tasks import running

COLLECT_EVERY_S = 5.0


@asynccontextmanager
async def periodic_gc() -> AsyncIterator[None]:
    """Collect every COLLECT_EVERY_S seconds, and not otherwise."""
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
