"""Reading of a range of offsets as workers read: within the same bounds, with the same result for each record."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumers.records import Records
from kernels.boundary import ReadLimits
from runtime.log_batches import read_items


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
