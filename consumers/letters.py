"""Dead letters: a rejected record, byte for byte, with why and where from in its headers."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError

from consumers.batch import Rejected
from runtime.errors import Fatal, TallyError
from runtime.faults import kafka_fault
from runtime.metrics import LETTERS
from runtime.retry import retrying
from runtime.tasks import all_of
from schemas.letter import Letter, Origin, write_headers

MAX_MESSAGE_CHARACTERS = 1_000
LETTERS_IN_FLIGHT = 500


class Letters:
    """Writes to the dead-letter topic."""

    def __init__(self, source: str, topic: str, producer: AIOKafkaProducer) -> None:
        """Letters of records of the topic `source`, to `topic`."""
        self._source = source
        self._topic = topic
        self._producer = producer

    async def send(self, rejected: Sequence[Rejected]) -> None:
        """Write a letter for each; acknowledged by Kafka on return.

        A crash may write a letter twice: its origin (topic, partition, offset) makes the two one.
        """
        for start in range(0, len(rejected), LETTERS_IN_FLIGHT):
            some = rejected[start : start + LETTERS_IN_FLIGHT]
            await all_of(retrying("writing a dead letter", partial(self._send, item)) for item in some)
            for reason, count in Counter(item.rejection.reason for item in some).items():
                LETTERS.labels(reason).inc(count)

    async def _send(self, item: Rejected) -> None:
        record = item.record
        letter = letter_of(self._source, item)
        key = b"" if record.key is None and record.value is None else record.key
        headers = [*record.headers, *write_headers(letter)]
        try:
            await self._producer.send_and_wait(self._topic, value=record.value, key=key, headers=headers)
        except KafkaError as error:
            raise self._fault(letter.origin, error) from error

    def _fault(self, origin: Origin, error: KafkaError) -> TallyError:
        fault = kafka_fault(error, f"writing the dead letter of {origin} to {self._topic}")
        if isinstance(error, MessageSizeTooLargeError | TopicAuthorizationFailedError):
            return Fatal(f"{fault}; raise that topic's max.message.bytes, or grant this client write access to it")
        return fault


def letter_of(topic: str, item: Rejected) -> Letter:
    """The letter of a rejected record of `topic`."""
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
