"""Committing offsets: only while the group counts this worker in."""

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from consumers.claims.client import Fenced
from runtime.errors import Unavailable, reason_of
from runtime.faults.kafka import kafka_fault
from runtime.retry import retrying
from runtime.settings import Settings

logger = logging.getLogger("tally.worker")


class Offsets:
    """The group's offsets of one topic. What is committed is the next offset to read, per partition."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._topic = settings.topic
        self._timeout_s = settings.query_timeout_ms / 1000

    async def commit(self, next_offsets: dict[int, int]) -> None:
        """Commit what is stored. Partitions that went to another worker are left to it: it will find them stored."""
        try:
            await self.confirm(next_offsets)
        except Fenced as error:
            logger.warning("not committed: %s", error)

    async def confirm(self, next_offsets: dict[int, int]) -> None:
        """Commit where this worker begins. Raises Fenced when the group has given a partition to another one."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "")
            for partition, offset in next_offsets.items()
        }

        async def attempt() -> None:
            try:
                # With its own deadline: the client itself looks for a coordinator without end, and says nothing.
                async with asyncio.timeout(self._timeout_s):
                    await self._consumer.commit(offsets)
            except TimeoutError as error:
                raise Unavailable("Kafka (TALLY_KAFKA) takes no commit") from error
            except (CommitFailedError, IllegalStateError) as error:
                raise Fenced(
                    f"the group has given partitions {sorted(next_offsets)} away: {reason_of(error)}"
                ) from error
            except KafkaError as error:
                raise kafka_fault(error, "committing") from error

        if offsets:
            await retrying("committing", attempt)
