"""Dead letters: a rejected record, byte for byte, with why and where from in its headers."""

import asyncio
from collections.abc import Sequence
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerFenced, TopicAuthorizationFailedError

from consumers.batch import Rejected
from runtime.errors import Fatal, Unavailable
from runtime.retry import retrying
from schemas.letter import (
    APPEND_MS,
    FIELD,
    INTERACTION_ID,
    MESSAGE,
    NAMESPACE,
    NULL_KEY,
    OFFSET,
    PARTITION,
    REASON,
    TOPIC,
)

MAX_MESSAGE_BYTES = 4096
LETTERS_IN_FLIGHT = 500


class Letters:
    """Writes to the dead-letter topic."""

    def __init__(self, topic: str, producer: AIOKafkaProducer) -> None:
        self._topic = topic
        self._producer = producer

    async def send(self, rejected: Sequence[Rejected]) -> None:
        """Write a letter for each; acknowledged by Kafka on return.

        A crash may write a letter twice: its origin (topic, partition, offset) makes the two one.
        """
        for start in range(0, len(rejected), LETTERS_IN_FLIGHT):
            some = rejected[start : start + LETTERS_IN_FLIGHT]
            await asyncio.gather(*(retrying("writing a dead letter", partial(self._send, item)) for item in some))

    async def _send(self, item: Rejected) -> None:
        record = item.record
        headers = [*record.headers, *_headers(item)]
        # A record needs a key or a value; a tombstone without a key gets an empty one, and says so.
        keyless_tombstone = record.key is None and record.value is None
        if keyless_tombstone:
            headers.append((NULL_KEY, b"1"))
        key = b"" if keyless_tombstone else record.key
        try:
            await self._producer.send_and_wait(self._topic, value=record.value, key=key, headers=headers)
        except (MessageSizeTooLargeError, TopicAuthorizationFailedError, ProducerFenced) as error:
            origin = f"{record.topic}/{record.partition} offset {record.offset}"
            raise Fatal(
                f"Kafka refuses the dead letter of {origin} on {self._topic} ({error!r}): raise that topic's "
                "max.message.bytes, or grant this client write access to it"
            ) from error
        except KafkaError as error:
            raise Unavailable(f"Kafka took no dead letter on {self._topic}: {error!r}") from error


def _headers(item: Rejected) -> list[tuple[str, bytes]]:
    record, rejection = item.record, item.rejection
    return [
        (REASON, rejection.reason.encode()),
        (FIELD, rejection.field.encode(errors="replace")),
        (MESSAGE, rejection.message.encode(errors="replace")[:MAX_MESSAGE_BYTES]),
        (NAMESPACE, item.namespace.encode()),
        (INTERACTION_ID, item.interaction_id.encode()),
        (TOPIC, record.topic.encode()),
        (PARTITION, b"%d" % record.partition),
        (OFFSET, b"%d" % record.offset),
        (APPEND_MS, b"%d" % record.timestamp),
    ]
