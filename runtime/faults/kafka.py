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
"""This client is beyond repair, a new one is not. Every other error of Kafka's is tried again: brokers come back,
leaders and coordinators move."""


def kafka_fault(error: KafkaError, what: str) -> TallyError:
    """What an error of Kafka's means here; `what` says what was being done."""
    why = reason_of(error)
    if isinstance(error, KAFKA_FATAL):
        return Fatal(f"{what}: Kafka (TALLY_KAFKA) refuses it: {why}")
    if isinstance(error, KAFKA_RESTART):
        return Restart(f"{what}: {why}")
    return Unavailable(f"{what}: Kafka (TALLY_KAFKA): {why}", kind=f"kafka {type(error).__name__}")
