"""Reading of dead letters."""

from collections.abc import AsyncGenerator, Sequence
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

    It ends when all origins of the selection are found. Raises Unavailable when Kafka stops answering.
    """
    seen: set[tuple[int, int]] = set()
    async with aclosing(_records(settings, selection)) as records:
        async for record in records:
            try:
                letter = read_letter(record.key, record.value, record.headers)
            except ValueError:
                continue  # another program's record
            place = letter.origin.partition, letter.origin.offset
            if letter.origin.topic == settings.topic and place not in seen and selection.matches(letter):
                seen.add(place)
                yield letter
                if len(seen) == len(selection.origins):
                    return


async def _records(settings: Settings, selection: Selection) -> AsyncGenerator[Record, None]:
    topic, limits = settings.dead_letter_topic_name, letter_limits(settings)
    async with kafka.admin(settings) as admin:
        numbers = await kafka.partition_numbers(admin, topic)
    # Both topics choose partitions by the record's key: a letter is most often on the partition of its origin.
    likely = {origin.partition for origin in selection.origins}
    places = [TopicPartition(topic, number) for number in sorted(numbers, key=lambda number: number not in likely)]
    async with kafka.record_reader(settings) as consumer:
        try:
            bounds = await _bounds(consumer, places, selection.since)
            for place in places:
                first, end = bounds[place]
                consumer.assign([place])
                async with aclosing(read_range(consumer, place, first, end, limits, patience_ms=_PATIENCE_MS)) as parts:
                    async for records in parts:
                        for record in map(records.at, range(len(records))):
                            yield record
        except KafkaError as error:
            raise kafka_fault(error, f"reading {topic}") from error


async def _bounds(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], since: datetime | None
) -> dict[TopicPartition, tuple[int, int]]:
    """Return the first offset since a time, and the end, of each partition."""
    ends = await consumer.end_offsets(places)
    begins = await consumer.beginning_offsets(places)
    if since is None:
        return {place: (begins[place], ends[place]) for place in places}
    found = await consumer.offsets_for_times(dict.fromkeys(places, to_epoch_ms(since)))  # no letter precedes its record
    return {
        place: (ends[place] if (at := found[place]) is None else max(begins[place], at.offset), ends[place])
        for place in places
    }
