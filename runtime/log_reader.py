"""Reader of a range of a partition's log, as it is fetched."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runtime.errors import Unavailable
from runtime.faults.kafka import kafka_fault
from runtime.kafka import Record
from runtime.whole_batches import WholeBatch

POLL_MS = 500

Items = Sequence[WholeBatch | Record]
"""Fetched from one partition: whole batches, or records with another version of the client."""


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
