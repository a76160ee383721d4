"""Limits of sources of events: rate, time, and a signal to stop."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TypeVar

from producers.producer import ImportedInteraction
from schemas.interaction import Interaction

Item = TypeVar("Item")

Source = Iterable[Interaction | ImportedInteraction] | AsyncIterable[Interaction | ImportedInteraction]

TICK_S = 0.02
"""Shortest sleep: items of a higher rate come a few at a time."""
ITEMS_BETWEEN_LOOKS = 100
"""Items of a source that is not asynchronous, after which the event loop may run."""


async def paced(source: Iterable[Item], rate: float) -> AsyncIterator[Item]:
    """Yield from `source` at `rate` items per second. Lost time is caught up."""
    begun = time.monotonic()
    for number, item in enumerate(source, 1):
        early_s = begun + number / rate - time.monotonic()
        if early_s > 0:
            await asyncio.sleep(max(early_s, TICK_S))
        yield item


async def at_rate(source: Iterable[Item] | AsyncIterable[Item], rate: float | None) -> AsyncIterator[Item]:
    """Yield from `source` at no more than `rate` items per second (None: unlimited). Lost time is not caught up."""
    gap_s, next_at = 1 / rate if rate else 0.0, time.monotonic()
    async for item in _each(source):
        now = time.monotonic()
        if next_at > now:
            await asyncio.sleep(next_at - now)
        next_at = max(next_at, now) + gap_s
        yield item


def for_seconds(source: Iterable[Item], seconds: float) -> Iterator[Item]:
    """Yield from `source` until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    yield from itertools.takewhile(lambda _item: time.monotonic() < deadline, source)


async def until(stop: asyncio.Event, source: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    """Yield from `source` until it ends or `stop` is set."""
    async for item in _each(source):
        if stop.is_set():
            return
        yield item


async def _each(source: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
        return
    for number, item in enumerate(source):
        if number % ITEMS_BETWEEN_LOOKS == 0:
            await asyncio.sleep(0)
        yield item
