"""The garbage collector, calmed down while a worker works.

A batch makes and drops some 100,000 containers, which are no garbage until it is done, and then hold no cycles. Looked
through every 700 of them, as by default, they cost 1.0 to 1.5 us an event. Cycles come from failed requests, whose
tracebacks hold what was to be sent: so there is a collection every few seconds, also while a store is away.
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

COLLECT_EVERY_S = 5.0


@asynccontextmanager
async def collected_at_intervals() -> AsyncIterator[None]:
    """Collect every COLLECT_EVERY_S seconds, and not otherwise."""
    gc.collect()
    gc.freeze()
    gc.disable()
    collecting = asyncio.create_task(_collect())
    try:
        yield
    finally:
        collecting.cancel()
        gc.enable()
        gc.unfreeze()


async def _collect() -> None:
    while True:
        await asyncio.sleep(COLLECT_EVERY_S)
        gc.collect()
