"""Reading of dead letters."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from consumers.record_ranges import read_range
from consumers.records import letter_limits
from runtime import kafka
from runtime.faults.kafka import kafka_fault
from runtime.kafka import Record
from runtime.settings import Settings
from schemas.event_time import to_epoch_ms
from schemas.letter import Letter, Origin, read_letter

_PATIENCE_MS = 10_000


@dataclass(frozen=True)
class Selection:
    """Selection of dead letters; None or empty selects all."""

    reason: str | None = None
    field: str | None = None
    namespace: str | None = None
    since: datetime | None = None
    """Earliest append time of the rejected record."""
    until: datetime | None = None
    """Append time before which the rejected record was appended."""
    origins: frozenset[Origin] = frozenset()

    def matches(self, letter: Letter) -> bool:
        """Tell whether this letter is selected."""
        return (
            self.reason in (None, letter.reason)
            and self.field in (None, letter.field)
            and self.namespace in (None, letter.namespace)
            and (self.since is None or letter.append_ms >= to_epoch_ms(self.since))
            and (self.until is None or letter.append_ms < to_epoch_ms(self.until))
            and (not self.origins or letter.origin in self.origins)
        )


async def read_letters(settings: Settings, selection: Selection) -> AsyncGenerator[Letter, None]:
    """Yield the selected letters of the dead-letter topic up to its present end, each once, partition by partition.

    Raises Unavailable when Kafka stops answering.
    """
    seen: set[tuple[int, int]] = set()
    async with aclosing(_records(settings, selection.since)) as records:
        async for record in records:
            try:
                letter = read_letter(record.key, record.value, record.headers)
            except ValueError:
                continue  # another program's record
            place = letter.origin.partition, letter.origin.offset
            if letter.origin.topic == settings.topic and place not in seen and selection.matches(letter):
                seen.add(place)
                yield letter


async def _records(settings: Settings, since: datetime | None) -> AsyncGenerator[Record, None]:
    topic, limits = settings.dead_letter_topic_name, letter_limits(settings)
    async with kafka.admin(settings) as admin:
        numbers = await kafka.partition_numbers(admin, topic)
    async with kafka.record_reader(settings) as consumer:
        try:
            for place in [TopicPartition(topic, number) for number in numbers]:
                first, end = await _bounds(consumer, place, since)
                async with aclosing(read_range(consumer, place, first, end, limits, patience_ms=_PATIENCE_MS)) as parts:
                    async for records in parts:
                        for record in map(records.at, range(len(records))):
                            yield record
        except KafkaError as error:
            raise kafka_fault(error, f"reading {topic}") from error


async def _bounds(consumer: AIOKafkaConsumer, place: TopicPartition, since: datetime | None) -> tuple[int, int]:
    """Assign a partition, and return its first offset since a time and its end."""
    consumer.assign([place])
    end = (await consumer.end_offsets([place]))[place]
    begin = (await consumer.beginning_offsets([place]))[place]
    if since is not None:  # a letter is never older than its record
        found = (await consumer.offsets_for_times({place: to_epoch_ms(since)}))[place]
        begin = end if found is None else max(begin, found.offset)
    return begin, end
