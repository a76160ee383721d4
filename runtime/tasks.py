"""Task ownership: the code that starts a task ends it, and waits until it has ended.

A task that is cancelled without a wait runs for a while. It may still use a connection that its owner has closed, and
its error is lost.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

CANCEL_EVERY_S = 1.0
"""Interval of repeated cancellations, because a client library may swallow one."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until all have ended. Their results and errors stay in the tasks."""
    while left := [task for task in tasks if task is not None and not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_EVERY_S)


def start(work: Coroutine[Any, Any, Result], purpose: str) -> asyncio.Task[Result]:
    """Start a background task whose error is logged as soon as it ends the task."""
    task = asyncio.create_task(work)
    task.add_done_callback(partial(_log_error, purpose))
    return task


def _log_error(purpose: str, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("%s failed and is not retried: %r", purpose, error, exc_info=error)


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None], purpose: str) -> AsyncIterator[None]:
    """Run `work` in a task for the duration of the block. On return the task has ended; its error is logged."""
    task = start(work, purpose)
    try:
        yield
    finally:
        await cancel_and_wait(task)


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return the results in order. The first error cancels the other tasks, and is raised once they have ended."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        await cancel_and_wait(*tasks)
