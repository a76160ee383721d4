"""Deleting an event: stored, on its way, or to come again."""

import asyncio
import time

from readers.progress import ConsumerProgress
from readers.waiting import OutcomeWaiter
from runtime.clickhouse import ClickHouse
from runtime.deletions import Deletion, Deletions

PAUSE_S = 0.05


class Deleter:
    """Deletes single events. `wait_s` is how long it waits for one that may be on its way."""

    def __init__(self, database: ClickHouse, progress: ConsumerProgress, waiting: OutcomeWaiter, wait_s: float) -> None:
        self._deletions = Deletions(database)
        self._progress = progress
        self._waiting = waiting
        self._wait_s = wait_s

    async def delete(self, namespace: str, interaction_id: str) -> None:
        """On return it is gone from lookups, lists and views, and stays so. Safe to repeat. Raises Unavailable.

        An event that takes longer on its way than is waited for is stored as deleted. One that is stored right now is
        erased here, although the consumer does that too: it might die just then.
        """
        deadline = time.monotonic() + self._wait_s
        gone = Deletion(interaction_id, namespace)
        await self._deletions.note(gone)
        with self._waiting.slot() as has_slot:
            while True:
                # Asked before the look: what had come to its outcome by then, the look finds.
                in_flight = self._progress.may_be_in_flight(interaction_id)
                if await self._deletions.is_recorded(gone):
                    await self._deletions.erase([gone])
                    return
                if not (in_flight and has_slot and time.monotonic() < deadline):
                    return
                await asyncio.sleep(PAUSE_S)
