"""Reading of a range of offsets as workers read: within the same bounds, with the same answer for each record."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runtime.batch_reader import Limits
from runtime.errors import Unavailable
from runtime.faults.kafka import kafka_fault
from runtime.records import Items, Records

POLL_MS = 500


async def read_items(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, *, patience_ms: int
) -> AsyncGenerator[Items, None]:
    """Whole batches, or records, that have offsets from `first` up to, not including, `end`, as they are fetched.

    The client is assigned the partition. Raises Unavailable when nothing at all comes for about `patience_ms`: the
    client itself waits without a word.
    """
    client.seek(place, first)
    silent_ms = 0
    try:
        while await client.position(place) < end:
            found: Any = (await client.getmany(place, timeout_ms=POLL_MS)).get(place, ())
            silent_ms = 0 if found else silent_ms + POLL_MS
            if silent_ms >= patience_ms:
                raise Unavailable(
                    f"Kafka (TALLY_KAFKA) gives nothing of {place.topic}/{place.partition} from {first} on"
                )
            if found:
                yield found
    except KafkaError as error:
        raise kafka_fault(error, f"reading {place.topic}/{place.partition}") from error


async def read_range(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, limits: Limits, *, patience_ms: int
) -> AsyncGenerator[Records, None]:
    """The records of these offsets. The client is an `record_reader`. Raises as `read_items` does."""
    async with aclosing(read_items(client, place, first, end, patience_ms=patience_ms)) as fetched:
        async for items in fetched:
            unread = {place.partition: items}
            while unread:
                records, unread = Records.read(unread, limits)
                yield records[records.offsets < end]
