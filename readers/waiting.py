"""Waits for outcomes, so that a client reads its own writes."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from readers.lookup import Lookups
from readers.progress import ConsumerProgress
from schemas.outcome import Moved, Outcome

FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.2


class LookupResult(NamedTuple):
    """Outcome of an event, or whether it may still be in flight. Never `Moved`: the copy has the outcome."""

    outcome: Outcome | None
    in_flight: bool


class OutcomeWaiter:
    """Polls for outcomes. At most `max_waiting` requests wait at a time."""

    def __init__(self, lookups: Lookups, progress: ConsumerProgress, max_waiting: int) -> None:
        self._lookups = lookups
        self._progress = progress
        self._max_waiting = max_waiting
        self._waiters = 0

    async def lookup(self, namespace: str, interaction_id: str) -> LookupResult:
        """Return the current outcome. Raises Unavailable."""
        # The progress is read first: the lookup then finds the outcome of every event that is no longer in flight.
        in_flight, committed = self._progress.may_be_in_flight(interaction_id), self._progress.committed
        outcome = await self._lookups.get(namespace, interaction_id)
        if isinstance(outcome, Moved):  # without an outcome below the committed offset: it has expired
            return LookupResult(None, outcome.offset >= committed.get(outcome.partition, 0))
        return LookupResult(outcome, in_flight)

    async def outcome(self, namespace: str, interaction_id: str, seconds: float) -> LookupResult:
        """Return the outcome, waiting at most `seconds` for an event in flight. Raises Unavailable.

        Returns at once if all slots are taken.
        """
        found = await self.lookup(namespace, interaction_id)
        if found.outcome is not None or not found.in_flight:
            return found
        deadline, pause_s = time.monotonic() + seconds, FIRST_PAUSE_S
        with self.slot() as has_slot:
            while found.outcome is None and found.in_flight and has_slot:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                await asyncio.sleep(min(pause_s, left_s))
                found = await self.lookup(namespace, interaction_id)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)
        return found

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Take a slot for a waiting request; yield whether one was free."""
        has_slot = self._waiters < self._max_waiting
        self._waiters += has_slot
        try:
            yield has_slot
        finally:
            self._waiters -= has_slot
