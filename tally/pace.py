"""Limits of sources of events: rate, time, and a signal to stop."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TypeVar

from producers.producer import ImportedInteraction
from schemas.interaction import Interaction

Source = Iterable[Interaction | ImportedInteraction] | AsyncIterable[Interaction | ImportedInteraction]

Item = TypeVar("Item")

TICK_S = 0.02
ITEMS_BETWEEN_LOOKS = 100
"""Items after which `until` lets the event loop run."""


async def paced(
    source: Iterator[Interaction], *, rate: float, seconds: float | None, stop: asyncio.Event | None = None
) -> AsyncIterator[Interaction]:
    """Yield from `source` at `rate` events per second, for `seconds` (None: until `stop`)."""
    begun = time.monotonic()
    given = 0
    while stop is None or not stop.is_set():
        passed_s = time.monotonic() - begun
        due = int((min(passed_s, seconds) if seconds is not None else passed_s) * rate)
        while given < due:
            given += 1
            if (interaction := next(source, None)) is None:
                return
            yield interaction
        if seconds is not None and passed_s >= seconds:
            return
        await asyncio.sleep(TICK_S)


async def for_seconds(source: Iterator[Interaction], seconds: float) -> AsyncIterator[Interaction]:
    """Yield from `source` until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    for interaction in source:
        if time.monotonic() >= deadline:
            return
        yield interaction


class Pace:
    """A limit of events per second; `rate` None: unlimited."""

    def __init__(self, rate: float | None) -> None:
        self._gap_s = 1 / rate if rate else 0.0
        self._next_at = time.monotonic()

    async def wait(self) -> None:
        """Return when the next event may pass. Time lost to a slow event is not caught up."""
        now = time.monotonic()
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
        self._next_at = max(self._next_at, now) + self._gap_s


async def at_rate(source: Iterable[Item], rate: float | None) -> AsyncIterator[Item]:
    """Yield from `source` at no more than `rate` events per second (None: unlimited)."""
    pace = Pace(rate)
    for item in source:
        await pace.wait()
        yield item


async def until(stop: asyncio.Event, source: Source) -> AsyncIterator[Interaction | ImportedInteraction]:
    """Yield from `source` until it ends or `stop` is set."""
    if isinstance(source, AsyncIterable):
        async for item in source:
            if stop.is_set():
                return
            yield item
    else:
        for number, item in enumerate(source):
            if number % ITEMS_BETWEEN_LOOKS == 0:
                await asyncio.sleep(0)  # let the signal arrive
            if stop.is_set():
                return
            yield item
