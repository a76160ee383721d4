"""Rebalance listener: what a worker does when its consumer group revokes and assigns partitions."""

import asyncio
import logging
from collections.abc import Iterable

from aiokafka import ConsumerRebalanceListener, TopicPartition

from consumers.loop import WorkerLoop
from runtime import metrics

SHARE_OF_TIMEOUT = 0.7
"""Part of TALLY_STOP_TIMEOUT_MS that a revocation may take: the group gives up members that are later than it."""

log = logging.getLogger("tally.worker")


class RebalanceListener(ConsumerRebalanceListener):
    """Settles a worker's batches before partitions are revoked, and forgets their state."""

    def __init__(self, loop: WorkerLoop, stop_timeout_ms: int) -> None:
        self._loop = loop
        self._deadline_s = SHARE_OF_TIMEOUT * stop_timeout_ms / 1000

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Wait until the group in flight is committed, then forget records that were only read.

        While a store is unavailable the group may outlast the deadline. Then the partitions are revoked without it:
        their next worker comes to the same verdicts, and this one can neither claim nor commit any more.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._loop.wait_idle()
        except TimeoutError:
            log.warning(
                "in-flight batch did not finish before the rebalance deadline (TALLY_STOP_TIMEOUT_MS); "
                "partitions are revoked without it, and their next worker stores it"
            )
        parts, gone = self._loop.parts, list(revoked)
        numbers = [place.partition for place in gone]
        parts.pipeline.forget_gathered()
        parts.intake.forget(gone)
        parts.resume.forget(numbers)
        parts.leases.forget(numbers)
        parts.assignment.revoke()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note the new assignment; rows stored ahead of its commits are looked up with its first batch."""
        parts, numbers = self._loop.parts, sorted(place.partition for place in assigned)
        parts.assignment.receive()
        # A batch that outlasted the last rebalance may have noted something since.
        parts.resume.forget(numbers)
        parts.leases.forget(numbers)
        metrics.PARTITIONS.set(len(numbers))
        log.info("assigned partitions %s", ", ".join(map(str, numbers)) or "none")
