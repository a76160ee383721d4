"""Dead letters: rejected records, byte for byte, with the reason and the origin in their headers."""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from consumers.batch import RejectedRecord
from runtime.errors import Fatal, TallyError
from runtime.faults.kafka import kafka_fault
from runtime.kafka import Record
from runtime.metrics import DEAD_LETTERS
from runtime.portions import portions
from runtime.retry import retrying
from runtime.settings import Settings
from runtime.tasks import gather_or_cancel
from schemas.letter import Letter, Origin, write_headers

MAX_MESSAGE_CHARACTERS = 1_000
LETTERS_IN_FLIGHT = 500
BYTES_IN_FLIGHT = 16 * 1024 * 1024
"""Maximum bytes of letters written together; a single letter may be larger."""

log = logging.getLogger("tally.worker")


class DeadLetters:
    """Writer of the dead-letter topic."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._source = settings.topic
        self._topic = settings.dead_letter_topic_name
        self._producer = producer
        self._max_record_bytes = settings.max_record_bytes

    async def send(self, rejected: Sequence[RejectedRecord]) -> None:
        """Write a dead letter for each record; acknowledged by Kafka on return. Raises Fatal.

        A crash may write a letter twice: readers take letters of one origin (topic, partition, offset) for one.
        """
        for some in portions(
            rejected, lambda item: nbytes_of(item.record), max_items=LETTERS_IN_FLIGHT, max_size=BYTES_IN_FLIGHT
        ):
            await gather_or_cancel(retrying("writing a dead letter", partial(self._send, item)) for item in some)
            for reason, count in Counter(item.rejection.reason for item in some).items():
                DEAD_LETTERS.labels(reason).inc(count)

    async def _send(self, item: RejectedRecord) -> None:
        letter = letter_of(self._source, item)
        try:
            await self._put(letter)
        except MessageSizeTooLargeError as error:
            size = nbytes_of(item.record)
            if size <= self._max_record_bytes:
                raise self._fault(letter.origin, error) from error
            # The record was compressed better than it can be here: no limit of the topic makes its letter fit.
            log.warning(
                "record %s has %d bytes, too many for %s: its dead letter is written without them",
                letter.origin,
                size,
                self._topic,
            )
            message = f"{letter.message} ({size} bytes: too large for a dead letter, left at its place)"
            await self._put(letter._replace(message=message, key=None, value=None, headers=()))

    async def _put(self, letter: Letter) -> None:
        key = b"" if letter.key is None and letter.value is None else letter.key
        headers = write_headers(letter)
        try:
            await self._producer.send_and_wait(self._topic, value=letter.value, key=key, headers=headers)
        except MessageSizeTooLargeError:
            raise
        except KafkaError as error:
            raise self._fault(letter.origin, error) from error

    def _fault(self, origin: Origin, error: KafkaError) -> TallyError:
        fault = kafka_fault(error, f"writing the dead letter of {origin} to {self._topic}")
        if isinstance(error, MessageSizeTooLargeError | TopicAuthorizationFailedError):
            return Fatal(f"{fault}; raise that topic's max.message.bytes, or grant this client write access to it")
        return fault


def letter_of(topic: str, item: RejectedRecord) -> Letter:
    """Make the dead letter of a rejected record of `topic`."""
    record, rejection = item.record, item.rejection
    return Letter(
        origin=Origin(topic, item.partition, record.offset),
        append_ms=record.timestamp,
        reason=rejection.reason,
        field=rejection.field,
        message=rejection.message[:MAX_MESSAGE_CHARACTERS],
        namespace=item.namespace,
        interaction_id=item.interaction_id,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def nbytes_of(record: Record) -> int:
    """Count the bytes of a record's key, value and headers."""
    headers = sum(len(name) + len(raw or b"") for name, raw in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
