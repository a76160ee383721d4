"""Meaning of a store's error: retry, reject the row, restart, or stop."""

import pytest
from aiokafka import errors as kafka_errors
from clickhouse_connect.driver.exceptions import DatabaseError
from redis import exceptions as redis_errors

from runtime.errors import Fatal, Restart, RowsRefused, StatementRefused, StatementTimeout, Unavailable
from runtime.faults.clickhouse import clickhouse_fault
from runtime.faults.kafka import kafka_fault
from runtime.faults.redis import redis_fault


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (252, Unavailable),
        (241, Unavailable),
        (159, StatementTimeout),
        (0, Unavailable),
        (99_999, Unavailable),
        (469, RowsRefused),
        (131, RowsRefused),
        (47, StatementRefused),
        (60, Fatal),
        (516, Fatal),
    ],
)
def test_clickhouse_errors_are_classified(code: int, kind: type[Exception]) -> None:
    error = DatabaseError("it said so")
    error.code = code
    assert type(clickhouse_fault(error)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis_errors.ConnectionError("gone"), Unavailable),
        (redis_errors.TimeoutError("slow"), Unavailable),
        (redis_errors.BusyLoadingError("loading"), Unavailable),
        (redis_errors.ReadOnlyError("a replica"), Unavailable),
        (redis_errors.OutOfMemoryError("full"), Unavailable),
        (redis_errors.ClusterDownError("CLUSTERDOWN"), Unavailable),
        (redis_errors.SlotNotCoveredError("no node"), Unavailable),
        (redis_errors.ResponseError("MISCONF cannot save"), Unavailable),
        (redis_errors.ResponseError("unknown command EVAL"), Fatal),
        (redis_errors.AuthenticationError("who?"), Fatal),
        (redis_errors.NoPermissionError("not you"), Fatal),
    ],
)
def test_redis_errors_are_classified(error: Exception, kind: type[Exception]) -> None:
    assert type(redis_fault(error)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (kafka_errors.NotLeaderForPartitionError(), Unavailable),
        (kafka_errors.CoordinatorNotAvailableError(), Unavailable),
        (kafka_errors.KafkaConnectionError(), Unavailable),
        (kafka_errors.TopicAuthorizationFailedError(), Fatal),
        (kafka_errors.CorruptRecordException(), Fatal),
        (kafka_errors.OutOfOrderSequenceNumber(), Restart),
        (kafka_errors.ProducerFenced(), Restart),
    ],
)
def test_kafka_errors_are_classified(error: kafka_errors.KafkaError, kind: type[Exception]) -> None:
    fault = kafka_fault(error, "doing something")
    assert type(fault) is kind
    assert "doing something" in str(fault)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (redis_fault(redis_errors.ResponseError("MISCONF cannot save")), "Redis (TALLY_REDIS): MISCONF cannot save"),
        (redis_fault(redis_errors.TimeoutError()), "Redis (TALLY_REDIS): TimeoutError"),
        (
            redis_fault(redis_errors.ResponseError("no such thing")),
            "does not support an operation of claims: no such thing",
        ),
        (kafka_fault(kafka_errors.KafkaTimeoutError("slow"), "reading"), "KafkaTimeoutError: slow"),
        (kafka_fault(kafka_errors.ProducerFenced("another"), "sending"), "sending: ProducerFenced: another"),
        (kafka_fault(kafka_errors.TopicAuthorizationFailedError("t"), "reading"), "TopicAuthorizationFailedError: t"),
    ],
)
def test_an_error_contains_the_message_of_the_store(fault: Exception, message: str) -> None:
    """Without quotes and parentheses of a Python object around it."""
    assert str(fault).endswith(message)
