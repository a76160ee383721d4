"""Retries with exponential backoff and full jitter."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runtime.errors import Fatal, RowsRefused, StatementRefused, Unavailable
from runtime.metrics import RETRIES

Result = TypeVar("Result")

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 10.0

_jitter = random.SystemRandom()
log = logging.getLogger(__name__)


COMMAND_ATTEMPTS = 5
"""Attempts of a command, whose user waits for the result."""


async def retrying(what: str, attempt: Callable[[], Awaitable[Result]], *, tries: int | None = None) -> Result:
    """Call `attempt` until it succeeds, with growing delays (full jitter) and a log line for each failure.

    Raises Fatal for an error that a retry cannot repair, and RowsRefused unchanged. Without `tries` it never gives up,
    because a pipeline that gave up would have to drop events. With `tries` it raises the last Unavailable.
    """
    tried = 0
    while True:
        try:
            return await attempt()
        except RowsRefused:
            raise
        except StatementRefused as error:
            raise Fatal(f"{what}: {error}") from error
        except Unavailable as error:
            tried += 1
            RETRIES.labels(what, error.kind).inc()
            if tried == tries:
                raise
            why = str(error)  # not the error itself: its traceback would keep the attempt's objects alive
        delay_s = _jitter.uniform(0, min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**tried))
        log.warning("%s failed (attempt %d), retrying in %.1f s: %s", what, tried, delay_s, why)
        await asyncio.sleep(delay_s)
