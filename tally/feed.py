"""Feeding of the topic by commands: at a rate, with progress, and with the outcomes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from producers.producer import ImportedInteraction, NotAccepted, Producer
from readers.overview import VerdictCounts, count_verdicts_at
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.interaction import Interaction

Source = Iterable[Interaction | ImportedInteraction] | AsyncIterable[Interaction | ImportedInteraction]

Item = TypeVar("Item")

POLL_S = 0.25
TICK_S = 0.02
ITEMS_BETWEEN_LOOKS = 100


@dataclass
class EmitSummary:
    """Events put on the topic so far."""

    accepted: int = 0
    failed: list[NotAccepted] = field(default_factory=list)
    offsets: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    last_id: str = ""


async def feed(
    producer: Producer,
    source: Source,
    *,
    namespace: str,
    keep_offsets: bool = False,
    progress: Callable[[int], None] = lambda _accepted: None,
) -> EmitSummary:
    """Emit everything in `source`. Failures are kept, not raised, so that one does not hide the rest."""
    fed = EmitSummary()
    async for result in producer.emit_many(source, namespace=namespace):
        if isinstance(result, NotAccepted):
            fed.failed.append(result)
            continue
        fed.accepted += 1
        fed.last_id = result.interaction_id
        if keep_offsets:
            fed.offsets[result.partition].append(result.offset)
        progress(fed.accepted)
    return fed


async def paced(
    source: Iterator[Interaction], *, rate: float, seconds: float | None, stop: asyncio.Event | None = None
) -> AsyncIterator[Interaction]:
    """Yield from `source` at `rate` events a second, for `seconds` (None: until `stop`)."""
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


class Pace:
    """A limit of events per second; `rate` None: unlimited."""

    def __init__(self, rate: float | None) -> None:
        self._gap_s = 1 / rate if rate else 0.0
        self._next_at = time.monotonic()

    async def wait(self) -> None:
        """Return when the next one may pass. Who was late does not catch up."""
        now = time.monotonic()
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
        self._next_at = max(self._next_at, now) + self._gap_s


async def at_rate(source: Iterable[Item], rate: float | None) -> AsyncIterator[Item]:
    """Yield from `source` at no more than the rate."""
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


async def wait_for_verdicts(
    settings: Settings, database: ClickHouse, fed: EmitSummary, timeout_s: float
) -> VerdictCounts:
    """Wait until everything fed has an outcome, or the time is up, and count the outcomes."""
    deadline = time.monotonic() + timeout_s
    while True:
        counts = await count_verdicts_at(settings, database, fed.offsets)
        if counts.total >= fed.accepted or time.monotonic() >= deadline:
            return counts
        await asyncio.sleep(POLL_S)
