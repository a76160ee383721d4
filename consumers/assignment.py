"""Assignment of a worker: its partitions, their commits, offsets that it waits at, and whether it has read all."""

import asyncio
import logging
import math
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from consumers.claims.client import Fenced
from runtime import kafka, metrics
from runtime.errors import Fatal, Restart, Unavailable, reason_of
from runtime.faults.kafka import kafka_fault
from runtime.migrate import partition_count_changed
from runtime.retry import retrying
from runtime.settings import Settings

log = logging.getLogger("tally.worker")


class Assignment:
    """Partitions of one topic that the group has assigned to a worker."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        offset_reader: AIOKafkaConsumer,
        settings: Settings,
        partitions: int,
        ends: Mapping[int, int],
    ) -> None:
        """`partitions` is the number of the whole topic; `ends` (offset per partition) may be below the log's own."""
        self._consumer = consumer
        self._offset_reader = offset_reader
        self._topic = settings.topic
        self._commit_timeout_s = settings.query_timeout_ms / 1000
        self._partitions = partitions
        self._ends = ends
        self.was_received = False
        """Whether the group has assigned partitions at least once, or none."""
        self._is_settled = False
        """False while the group rebalances."""
        self._held: dict[int, int] = {}
        """Partition -> offset it waits at: a record there is of a newer schema."""

    def receive(self) -> None:
        """Note that the group has assigned partitions."""
        self._is_settled = self.was_received = True

    def revoke(self) -> None:
        """Note that the group rebalances: nothing is held any more."""
        self._is_settled = False
        self._held.clear()
        metrics.PARTITIONS_HELD.set(0)

    def has(self, partition: int) -> bool:
        """Whether a partition is assigned now."""
        return TopicPartition(self._topic, partition) in self._consumer.assignment()

    def check_partitions(self) -> None:
        """Raise Restart when the topic's partition count has changed: the next start checks the new one."""
        now = len(self._consumer.partitions_for_topic(self._topic) or ())
        if now not in (0, self._partitions):
            raise Restart(partition_count_changed(self._topic, self._partitions, now))

    def describe_held(self) -> str:
        """Name the partitions that wait at a record of a newer schema; '' if there are none."""
        places = [f"{self._topic}/{partition} at offset {offset}" for partition, offset in sorted(self._held.items())]
        return f"records of a newer schema wait: {', '.join(places)}; upgrade this worker" if places else ""

    def check_held(self) -> None:
        """Raise Fatal when records are left that this version cannot validate."""
        if self._held:
            raise Fatal(self.describe_held())

    def hold(self, offsets: Mapping[int, int]) -> None:
        """Read partitions no further than these offsets, which a newer version will take. Raises Fenced."""
        for partition, offset in offsets.items():
            place = TopicPartition(self._topic, partition)
            if place not in self._consumer.assignment():
                raise Fenced(f"partition {partition} went to another worker while its records were processed")
            self._consumer.pause(place)
            self._consumer.seek(place, offset)
            self._held[partition] = offset
        metrics.PARTITIONS_HELD.set(len(self._held))

    async def has_caught_up(self) -> bool:
        """Whether everything is read, apart from held partitions."""
        if not self._is_settled:
            return False
        places = {each for each in self._consumer.assignment() if each.partition not in self._held}
        log_ends = await retrying("reading end offsets", lambda: kafka.end_offsets(self._offset_reader, places))
        try:
            for place in places:
                end = min(log_ends[place], self._ends.get(place.partition, math.inf))
                if await self._consumer.position(place) < end:
                    return False
        except (IllegalStateError, KafkaError):
            return False  # a rebalance came in between: the next call looks again
        return True

    async def commit(self, next_offsets: dict[int, int]) -> None:
        """Commit flushed batches, except those of revoked partitions: the next worker finds their rows."""
        try:
            await self.confirm(next_offsets)
        except Fenced as error:
            log.warning("offsets not committed: %s; the next worker finds the rows and skips them", error)

    async def confirm(self, next_offsets: dict[int, int]) -> None:
        """Commit offsets. Raises Fenced when the group has given a partition to another worker."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "")
            for partition, offset in next_offsets.items()
        }

        async def attempt() -> None:
            try:
                # With its own deadline: the client looks for a coordinator for ever, and logs nothing.
                async with asyncio.timeout(self._commit_timeout_s):
                    await self._consumer.commit(offsets)
            except TimeoutError as error:
                raise Unavailable("Kafka (TALLY_KAFKA) takes no commit") from error
            except (CommitFailedError, IllegalStateError) as error:
                raise Fenced(
                    f"the group has given partitions {sorted(next_offsets)} to other workers: {reason_of(error)}"
                ) from error
            except KafkaError as error:
                raise kafka_fault(error, "committing") from error

        if offsets:
            await retrying("committing", attempt)
