"""Reading of a range of offsets as workers read: within the same bounds, with the same answer for each record."""

from collections.abc import AsyncGenerator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from runtime.batch_reader import Limits
from runtime.errors import Unavailable
from runtime.faults import kafka_fault
from runtime.records import Records

POLL_MS = 500


async def read_range(
    client: AIOKafkaConsumer, place: TopicPartition, first: int, end: int, limits: Limits, *, patience_ms: int
) -> AsyncGenerator[Records, None]:
    """The records from offset `first` up to, not including, `end`, of a partition that the client is assigned.

    The client is an `offset_reader`. Raises Unavailable when nothing at all comes for about `patience_ms`: the client
    itself waits without a word.
    """
    client.seek(place, first)
    silent_ms = 0
    try:
        while await client.position(place) < end:
            found: Any = await client.getmany(place, timeout_ms=POLL_MS)
            silent_ms = 0 if found.get(place) else silent_ms + POLL_MS
            if silent_ms >= patience_ms:
                raise Unavailable(
                    f"Kafka (TALLY_KAFKA) gives nothing of {place.topic}/{place.partition} from {first} on"
                )
            unread = {each.partition: items for each, items in found.items()}
            while unread:
                records, unread = Records.read(unread, limits)
                yield records[records.offsets < end]
    except KafkaError as error:
        raise kafka_fault(error, f"reading {place.topic}/{place.partition}") from error
