"""Readers of a range of offsets, with the same bounds and results as in a worker."""

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
    """Yield the batches or records with offsets from `first` up to, excluding, `end`, as they are fetched.

    The client is assigned the partition. Raises Unavailable when nothing arrives for about `patience_ms`, because the
    client itself waits without an error.
    """
    client.seek(place, first)
    silent_ms = 0
    try:
        while await client.position(place) < end:
            found: Any = (await client.getmany(place, timeout_ms=POLL_MS)).get(place, ())
            silent_ms = 0 if found else silent_ms + POLL_MS
            if silent_ms >= patience_ms:
                raise Unavailable(
                    f"Kafka (TALLY_KAFKA) returns no records of {place.topic}/{place.partition} from offset {first}"
                )
            if found:
                yield found
    except KafkaError as error:
        raise kafka_fault(error, f"reading {place.topic}/{place.partition}") from error


async def read_range(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, limits: Limits, *, patience_ms: int
) -> AsyncGenerator[Records, None]:
    """Yield the records of these offsets, read by a `record_reader` client. Raises like `read_items`."""
    async with aclosing(read_items(client, place, first, end, patience_ms=patience_ms)) as fetched:
        async for items in fetched:
            unread = {place.partition: items}
            while unread:
                records, unread = Records.read(unread, limits)
                yield records[records.offsets < end]
