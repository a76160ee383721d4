"""What each store's errors mean: one table per store, and one function that reads it.

retry   the store cannot do it now: Unavailable; `retrying` tries again, and nothing is dropped
poison  ClickHouse will never take these rows: RowsRefused; the sink finds out which of them it is
fatal   waiting cannot repair it: Fatal, or StatementRefused for a statement nobody expected to be refused
"""

import ssl
from collections.abc import Iterator

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
from clickhouse_connect.driver.exceptions import ClickHouseError
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
)
from urllib3.exceptions import HTTPError

from runtime.errors import Fatal, Restart, TallyError, TookTooLong, Unavailable, reason_of

CLICKHOUSE_POISON = {
    6: "CANNOT_PARSE_TEXT",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    131: "TOO_LARGE_STRING_SIZE",
    153: "ILLEGAL_DIVISION",
    321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    395: "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
    407: "DECIMAL_OVERFLOW",
    469: "VIOLATED_CONSTRAINT",
}
CLICKHOUSE_CREDENTIALS = (192, 193, 194, 497, 516)
CLICKHOUSE_TIMEOUT = 159
CLICKHOUSE_BAD_PATTERN = 427
CLICKHOUSE_MISSING = {60: "UNKNOWN_TABLE", 81: "UNKNOWN_DATABASE"}
CLICKHOUSE_FATAL = {
    8: "THERE_IS_NO_COLUMN",
    16: "NO_SUCH_COLUMN_IN_TABLE",
    20: "NUMBER_OF_COLUMNS_DOESNT_MATCH",
    36: "BAD_ARGUMENTS",
    43: "ILLEGAL_TYPE_OF_ARGUMENT",
    44: "ILLEGAL_COLUMN",
    46: "UNKNOWN_FUNCTION",
    47: "UNKNOWN_IDENTIFIER",
    48: "NOT_IMPLEMENTED",
    50: "UNKNOWN_TYPE",
    53: "TYPE_MISMATCH",
    57: "TABLE_ALREADY_EXISTS",
    62: "SYNTAX_ERROR",
    73: "UNKNOWN_FORMAT",
    115: "UNKNOWN_SETTING",
    164: "READONLY",
    386: "NO_COMMON_TYPE",
    427: "CANNOT_COMPILE_REGEXP",
    457: "BAD_QUERY_PARAMETER",
}
"""Our statement or their table is wrong. Every other code is tried again: 252 too many parts, 241 memory, 159 timeout,
a quota, a deadlock, a disk; a code nobody thought of must not stop a whole deployment."""

REDIS_RETRY = (
    ConnectionError,  # LOADING among them
    TimeoutError,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterError,  # CLUSTERDOWN, MASTERDOWN
    RedisClusterException,  # a slot that no node serves now
    AskError,  # a slot on the move, MOVED among them
    TryAgainError,
    NoScriptError,
)
REDIS_RETRY_TEXTS = ("MISCONF", "BUSY", "NOREPLICAS", "UNBLOCKED")
"""How further errors begin that waiting may repair. Every other one of Redis's is fatal."""

REDIS_FAILED = (RedisError, RedisClusterException)
"""All that a call to Redis may raise."""

STORE_FAILED = (TallyError, KafkaError, *REDIS_FAILED, ClickHouseError, HTTPError, OSError)
"""Errors of stores and of the way to them: they say nothing about the record that was being processed."""

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


class StatementRefused(TallyError):
    """ClickHouse refused a statement for good; `code` is its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RowsRefused(StatementRefused):
    """ClickHouse refused rows for what is in them; at least one of them can never be stored."""


def error_code(error: BaseException) -> int:
    """ClickHouse's code of an error, 0 when it has none: the network's, or that of something in between."""
    return getattr(error, "code", None) or 0


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _untrusted(error: BaseException) -> str:
    """Why a server's certificate was not trusted; empty when an error has another cause."""
    found = (each.verify_message for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError))
    return next(found, "")


def _network_reason(error: BaseException) -> str:
    """The operating system's own words for a failed connection; empty when an error has another cause."""
    found = [each for each in _causes(error) if isinstance(each, OSError)]
    return found[-1].strerror or str(found[-1]) if found else ""


def clickhouse_fault(error: ClickHouseError) -> TallyError:
    """What an error of ClickHouse's means here."""
    if why := _untrusted(error):
        return Fatal(f"ClickHouse's certificate is not trusted (TALLY_TLS_CA_FILE): {why}")
    code = error_code(error)
    if code in CLICKHOUSE_CREDENTIALS:
        return Fatal("ClickHouse refused the credentials in TALLY_CLICKHOUSE")
    if code in CLICKHOUSE_MISSING:
        return Fatal(f"ClickHouse lacks what Tally needs (`tally init` creates it; TALLY_DATABASE): {error}")
    if code in CLICKHOUSE_POISON or code in CLICKHOUSE_FATAL:
        refused = RowsRefused if code in CLICKHOUSE_POISON else StatementRefused
        return refused(code, f"ClickHouse refused a statement: {error}")
    if why := _network_reason(error):
        return Unavailable(f"ClickHouse (TALLY_CLICKHOUSE) does not answer: {why}", kind="clickhouse network")
    fault = TookTooLong if code == CLICKHOUSE_TIMEOUT else Unavailable
    return fault(f"ClickHouse (TALLY_CLICKHOUSE) cannot answer now: {error}", kind=f"clickhouse {code or 'network'}")


def redis_fault(error: Exception) -> TallyError:
    """What an error of Redis's means here."""
    if why := _untrusted(error):
        return Fatal(f"Redis's certificate is not trusted (TALLY_TLS_CA_FILE): {why}")
    why = reason_of(error)
    if isinstance(error, AuthenticationError):
        return Fatal(f"Redis refused the credentials in TALLY_REDIS: {why}")
    if isinstance(error, NoPermissionError):
        return Fatal(
            f"Redis does not let the user in TALLY_REDIS do what Tally needs (deploy/access/valkey.acl): {why}"
        )
    if isinstance(error, REDIS_RETRY) or str(error).startswith(REDIS_RETRY_TEXTS):
        return Unavailable(f"Redis (TALLY_REDIS): {why}", kind=f"redis {type(error).__name__}")
    return Fatal(f"Redis (TALLY_REDIS) cannot do what claims need: {why}")


def kafka_fault(error: KafkaError, what: str) -> TallyError:
    """What an error of Kafka's means here; `what` says what was being done."""
    why = reason_of(error)
    if isinstance(error, KAFKA_FATAL):
        return Fatal(f"{what}: Kafka (TALLY_KAFKA) refuses it: {why}")
    if isinstance(error, KAFKA_RESTART):
        return Restart(f"{what}: {why}")
    return Unavailable(f"{what}: Kafka (TALLY_KAFKA): {why}", kind=f"kafka {type(error).__name__}")
