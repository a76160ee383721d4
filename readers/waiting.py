"""Waiting for an outcome: so that who has just sent an event can read it."""

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
    """Outcome of an event, and without one whether it may still come. Never `Moved`: that is in flight."""

    outcome: Outcome | None
    in_flight: bool


class OutcomeWaiter:
    """Looks an id up again and again, for few enough at a time."""

    def __init__(self, lookups: Lookups, progress: ConsumerProgress, most: int) -> None:
        self._lookups = lookups
        self._progress = progress
        self._most = most
        self._waiters = 0

    async def lookup(self, namespace: str, interaction_id: str) -> LookupResult:
        """How it is now. Raises Unavailable."""
        # Asked before: what had come to its outcome by then, the look finds.
        in_flight, committed = self._progress.may_be_in_flight(interaction_id), self._progress.committed
        outcome = await self._lookups.get(namespace, interaction_id)
        if isinstance(outcome, Moved):  # no outcome of a copy that was done with: that has expired
            return LookupResult(None, outcome.offset >= committed.get(outcome.partition, 0))
        return LookupResult(outcome, in_flight)

    async def outcome(self, namespace: str, interaction_id: str, seconds: float) -> LookupResult:
        """The same, waiting so long at most for what may be in flight; not at all with too many waiters."""
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
        """One of the places for those that wait; False when all are taken."""
        has_slot = self._waiters < self._most
        self._waiters += has_slot
        try:
            yield has_slot
        finally:
            self._waiters -= has_slot
