"""Watch of the topic while a worker runs: its settings, the starts of its logs, and stuck partitions."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from runtime import kafka
from runtime.errors import Fatal, reason_of
from runtime.faults.kafka import kafka_fault
from runtime.kafka import LogBounds
from runtime.settings import Settings
from runtime.stuck import StuckPartitionTracker
from runtime.topic_settings import RETENTION_MS

WARN_EVERY_S = 60.0

log = logging.getLogger("tally.worker")


class TopicWatch:
    """Checks the topic every TALLY_TOPIC_CHECK_MS. `check` raises once its settings lose or reorder events."""

    def __init__(
        self,
        settings: Settings,
        admin: AIOKafkaAdminClient,
        consumer: AIOKafkaConsumer,
        offset_reader: AIOKafkaConsumer,
    ) -> None:
        self._settings = settings
        self._admin = admin
        self._consumer = consumer
        self._offset_reader = offset_reader
        self._fault: Fatal | None = None
        self._starts: dict[int, int] = {}
        self._warned_at = -math.inf
        self.partitions = StuckPartitionTracker(settings)
        """Partitions of this worker, and which of them are stuck."""

    def check(self) -> None:
        """Raise Fatal when a setting of the topic was changed to one that loses or reorders events."""
        if self._fault is not None:
            raise self._fault

    def take_starts(self) -> Mapping[int, int]:
        """Return the first offsets in the logs of this worker's partitions, once after each check."""
        starts, self._starts = self._starts, {}
        return starts

    async def run(self) -> None:
        """Check periodically, until `check` raises."""
        while self._fault is None:
            await asyncio.sleep(self._settings.topic_check_ms / 1000)
            try:
                await self._look()
            except Fatal as fault:
                log.error("%s; this worker takes no more records, and ends", fault)
                self._fault = fault
            except Exception as error:  # of any kind: without checks a changed topic goes unnoticed
                log.warning("the topic could not be checked, trying again: %s", reason_of(error))

    async def _look(self) -> None:
        found = await kafka.check_topics(self._admin, self._settings)
        numbers = [place.partition for place in self._consumer.assignment()]
        bounds = dict[int, LogBounds]()
        if numbers:
            bounds = await kafka.log_bounds(self._offset_reader, self._settings.topic, numbers, member=self._consumer)
        self._starts = {partition: each.start for partition, each in bounds.items()}
        committed = {partition: each.committed or 0 for partition, each in bounds.items()}
        await self.partitions.note({partition: each.end for partition, each in bounds.items()}, committed)
        await self._warn_of_retention(int(found.get(RETENTION_MS) or -1), bounds)

    async def _warn_of_retention(self, retention_ms: int, bounds: Mapping[int, LogBounds]) -> None:
        """Log unread records that are older than the topic's retention: the broker may remove them at any moment."""
        lagging = {number: each for number, each in bounds.items() if (each.committed or 0) < each.end}
        if retention_ms < 0 or not lagging or time.monotonic() - self._warned_at < WARN_EVERY_S:
            return
        topic, kept_from_ms = self._settings.topic, int(time.time() * 1000) - retention_ms
        try:
            kept = await self._offset_reader.offsets_for_times(
                {TopicPartition(topic, number): kept_from_ms for number in lagging}
            )
        except KafkaError as error:
            raise kafka_fault(error, "asking for offsets by time") from error
        for place, first_kept in kept.items():
            each = lagging[place.partition]
            old = (each.end if first_kept is None else first_kept.offset) - max(each.start, each.committed or 0)
            if old > 0:
                self._warned_at = time.monotonic()
                log.error(
                    "%s/%d: %d unread records are older than %s=%d, so Kafka may remove them at any moment: keep the "
                    "topic longer, or add workers",
                    topic,
                    place.partition,
                    old,
                    RETENTION_MS,
                    retention_ms,
                )
