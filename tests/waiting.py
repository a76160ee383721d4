"""Waiting for a condition, inside a deadline."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

from runtime.ports import responds_to_http

DEADLINE_S = 60.0
_PACE_S = 0.05


def eventually(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
    """Return once the condition holds; fail the test when it does not within the deadline."""
    timer = threading.Event()
    for _ in range(int(deadline_s / _PACE_S)):
        if condition():
            return
        timer.wait(_PACE_S)
    raise AssertionError(f"not within {deadline_s} s")


async def eventually_async(condition: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S) -> None:
    """The same for a condition that has to be awaited."""
    async with asyncio.timeout(deadline_s):
        while not await condition():
            await asyncio.to_thread(threading.Event().wait, _PACE_S)


async def until_it_answers(url: str) -> None:
    """Return once a GET of a loopback URL succeeds."""

    async def answers() -> bool:
        return await asyncio.to_thread(responds_to_http, url)

    await eventually_async(answers)
