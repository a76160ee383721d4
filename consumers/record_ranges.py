"""Reading of a range of offsets as workers read: within the same bounds, with the same result for each record."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumers.batch import Batch, Range
from consumers.records import Records, event_limits
from kernels.boundary import ReadLimits
from runtime import kafka
from runtime.log_batches import read_items
from runtime.settings import Settings


async def read_range(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, limits: ReadLimits, *, patience_ms: int
) -> AsyncGenerator[Records, None]:
    """Yield the records of offsets from `first` up to, not including, `end`.

    The client is a `runtime.kafka.record_reader` that is assigned the partition. Raises as
    `runtime.log_batches.read_items` does.
    """
    async with aclosing(read_items(client, place, first, end, patience_ms=patience_ms)) as fetched:
        async for items in fetched:
            unread = {place.partition: items}
            while unread:
                records, unread = Records.read(unread, limits)
                yield records[records.offsets < end]


async def read_again(settings: Settings, ranges: Sequence[Range]) -> Batch:
    """Read a decided batch again: its group has kept only rows. Raises Unavailable, and Fatal when records are gone."""
    places = [TopicPartition(settings.topic, each.partition) for each in ranges]
    limits, patience_ms = event_limits(settings), settings.query_timeout_ms
    async with kafka.record_reader(settings) as client:
        client.assign(places)
        found = [
            records
            for place, each in zip(places, ranges, strict=True)
            async for records in read_range(
                client, place, each.first_offset, each.next_offset, limits, patience_ms=patience_ms
            )
        ]
    return Batch(Records.joined(found))
