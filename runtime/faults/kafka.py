"""Meaning of Kafka's errors."""

from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    CorruptRecordException,
    DuplicateSequenceNumber,
    GroupAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownProducerId,
    UnsupportedVersionError,
)

from runtime.errors import Fatal, Restart, TallyError, Unavailable, reason_of

KAFKA_FATAL = (
    AuthenticationFailedError,
    SaslAuthenticationFailed,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    InvalidTopicError,
    CorruptRecordException,
    MessageSizeTooLargeError,
    UnsupportedVersionError,
)
KAFKA_RESTART = (ProducerFenced, OutOfOrderSequenceNumber, DuplicateSequenceNumber, UnknownProducerId)
"""Errors after which only a new client can continue. Every other error of Kafka is retried: brokers return, leaders
and coordinators move."""


def kafka_fault(error: KafkaError, what: str) -> TallyError:
    """Translate an error of Kafka; `what` names the attempt."""
    why = reason_of(error)
    if isinstance(error, KAFKA_FATAL):
        return Fatal(f"{what}: refused by Kafka (TALLY_KAFKA): {why}")
    if isinstance(error, KAFKA_RESTART):
        return Restart(f"{what}: {why}")
    return Unavailable(f"{what}: Kafka (TALLY_KAFKA): {why}", kind=f"kafka {type(error).__name__}")
