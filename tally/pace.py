"""Limits of sources of events: rate, time, and a signal to stop."""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TypeVar

from producers.producer import ImportedInteraction
from producers.simulation.live import LiveTraffic
from schemas.interaction import Interaction

Item = TypeVar("Item")

Source = Iterable[Interaction | ImportedInteraction] | AsyncIterable[Interaction | ImportedInteraction]

TICK_S = 0.02
"""Shortest sleep: items of a higher rate come a few at a time."""
MAX_BEHIND_MS = 500
"""Longest delay in ms of live traffic that is caught up: shorter than from any impression to its first reaction."""
ITEMS_BETWEEN_LOOKS = 100
"""Items of a source that is not asynchronous, after which the event loop may run."""


async def in_real_time(
    traffic: LiveTraffic, stop: asyncio.Event, *, seconds: float | None = None, events: int | None = None
) -> AsyncIterator[Interaction]:
    """Yield each event of `traffic` when it is due, and at the end the late ones that are held.

    Ends when `stop` is set, after `seconds`, or with exactly this number of events. Unless `events` ends it, all
    impressions of an execution are yielded or none. Lost time is not caught up, apart from MAX_BEHIND_MS.
    """
    end_ms = math.inf if seconds is None else time.time() * 1_000 + seconds * 1_000
    yielded, reached_ms = 0, -math.inf
    while events is None or yielded + traffic.held < events:
        if (due_ms := traffic.due_ms) > reached_ms:  # events of the same time stay together
            await _wait(stop, min(due_ms, end_ms) / 1_000 - time.time())
            now_ms = time.time() * 1_000
            if stop.is_set() or now_ms >= end_ms:
                break
            if now_ms - due_ms > MAX_BEHIND_MS:
                traffic.postpone(int(now_ms - due_ms))
            reached_ms = traffic.due_ms
        if (event := traffic.take()) is not None:
            yielded += 1
            yield event
    while traffic.held:
        yield traffic.take_held()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Return after `seconds`, or at once if `stop` is set."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), max(seconds, TICK_S))


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
