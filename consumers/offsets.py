"""Commits of offsets, which Kafka takes only from members of the group."""

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
    """Committed offsets of the group on one topic: per partition the next offset to read."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._topic = settings.topic
        self._timeout_s = settings.query_timeout_ms / 1000

    async def commit(self, next_offsets: dict[int, int]) -> None:
        """Commit flushed batches, except those of revoked partitions: the next worker finds their rows."""
        try:
            await self.confirm(next_offsets)
        except Fenced as error:
            logger.warning("offsets not committed: %s; the next worker finds the rows and skips them", error)

    async def confirm(self, next_offsets: dict[int, int]) -> None:
        """Commit offsets. Raises Fenced when the group has given a partition to another worker."""
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "")
            for partition, offset in next_offsets.items()
        }

        async def attempt() -> None:
            try:
                # With its own deadline: the client looks for a coordinator for ever, and logs nothing.
                async with asyncio.timeout(self._timeout_s):
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
