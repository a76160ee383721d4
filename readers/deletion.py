"""Deletion of an event that is stored, in flight, or yet to be sent again."""

import asyncio
import time

from readers.progress import ConsumerProgress
from readers.waiting import OutcomeWaiter
from runtime.clickhouse import ClickHouse
from runtime.deletions import Deletion, Deletions

PAUSE_S = 0.05


class Deleter:
    """Deleter of single events. `wait_s` bounds the wait for an event in flight."""

    def __init__(self, database: ClickHouse, progress: ConsumerProgress, waiting: OutcomeWaiter, wait_s: float) -> None:
        self._deletions = Deletions(database)
        self._progress = progress
        self._waiting = waiting
        self._wait_s = wait_s

    async def delete(self, namespace: str, interaction_id: str) -> None:
        """Delete an event from lookups, lists and views for good. Safe to repeat. Raises Unavailable.

        An event that is in flight for longer than the wait is stored as deleted. An event that is being stored is
        erased here, although the consumer does so, too, because the consumer may crash in between.
        """
        deadline = time.monotonic() + self._wait_s
        gone = Deletion(interaction_id, namespace)
        await self._deletions.note(gone)
        with self._waiting.slot() as has_slot:
            while True:
                # Read before the lookup, which so finds every outcome of an event that was not in flight.
                in_flight = self._progress.may_be_in_flight(interaction_id)
                if await self._deletions.is_recorded(gone):
                    await self._deletions.erase([gone])
                    return
                if not (in_flight and has_slot and time.monotonic() < deadline):
                    return
                await asyncio.sleep(PAUSE_S)
