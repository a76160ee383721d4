"""The share: which partitions a worker has now, where it waits in them, and whether it has come to their ends."""

import logging
import math
from collections.abc import Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from consumers.claims.client import Fenced
from runtime import kafka
from runtime.errors import Fatal, Restart
from runtime.migrate import partition_count_changed
from runtime.retry import retrying

log = logging.getLogger("tally.worker")


class Assignment:
    """One worker's part of a topic."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        offset_reader: AIOKafkaConsumer,
        topic: str,
        partitions: int,
        ends: Mapping[int, int] | None = None,
    ) -> None:
        """`partitions` are those of the whole topic; `ends` (offset per partition) may lie before the log's own."""
        self._consumer = consumer
        self._offset_reader = offset_reader
        self._topic = topic
        self._partitions = partitions
        self._ends = ends or {}
        self.is_settled = False
        """The group has said which partitions are ours, and has not begun to say otherwise."""
        self.held: dict[int, int] = {}
        """Partition -> offset it waits at: a record there is of a newer schema."""

    def check_partitions(self) -> None:
        """Raise Restart when the topic has another number of partitions by now: the next start tells whether it may."""
        now = len(self._consumer.partitions_for_topic(self._topic) or ())
        if now not in (0, self._partitions):
            raise Restart(partition_count_changed(self._topic, self._partitions, now))

    def held_in_words(self) -> str:
        """Name the partitions that wait at a record of a newer schema."""
        places = [f"{self._topic}/{partition} at offset {offset}" for partition, offset in sorted(self.held.items())]
        return f"records of a newer schema wait: {', '.join(places)}; upgrade this worker" if places else ""

    def check_held(self) -> None:
        """Raise Fatal when records are left that this version cannot validate."""
        if self.held:
            raise Fatal(f"waiting at records of a newer schema (partition: offset): {self.held}; upgrade this consumer")

    def hold(self, offsets: Mapping[int, int]) -> None:
        """Leave partitions unread from these offsets on, for a newer version of this worker. Raises Fenced."""
        for partition, offset in offsets.items():
            place = TopicPartition(self._topic, partition)
            if place not in self._consumer.assignment():
                raise Fenced(f"partition {partition} went to another worker while its records were worked on")
            self._consumer.pause(place)
            self._consumer.seek(place, offset)
            self.held[partition] = offset
            log.warning(
                "%s/%d waits at offset %d, a record of a newer schema: upgrade this worker",
                self._topic,
                partition,
                offset,
            )

    async def has_caught_up(self) -> bool:
        """Whether everything is read, apart from what is held."""
        if not self.is_settled:
            return False
        ours = {each for each in self._consumer.assignment() if each.partition not in self.held}
        ends = await retrying("reading end offsets", lambda: kafka.end_offsets(self._offset_reader, ours))
        try:
            return all([await self._consumer.position(place) >= min(ends[place], self._end(place)) for place in ours])
        except (IllegalStateError, KafkaError):
            return False  # a rebalance came in between: look again

    def _end(self, place: TopicPartition) -> float:
        return self._ends.get(place.partition, math.inf)
