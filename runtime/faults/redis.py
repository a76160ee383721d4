"""Meaning of Redis's errors."""

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

from runtime.errors import Fatal, TallyError, Unavailable, reason_of
from runtime.faults.network import untrusted

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
"""Beginnings of other errors that waiting may repair. Every further error of Redis is fatal."""

REDIS_FAILED = (RedisError, RedisClusterException)
"""All errors that a call to Redis may raise."""


def redis_fault(error: Exception) -> TallyError:
    """Translate an error of Redis."""
    if why := untrusted(error):
        return Fatal(f"Redis's certificate is not trusted (TALLY_TLS_CA_FILE): {why}")
    why = reason_of(error)
    if isinstance(error, AuthenticationError):
        return Fatal(f"Redis refused the credentials in TALLY_REDIS: {why}")
    if isinstance(error, NoPermissionError):
        return Fatal(f"the user in TALLY_REDIS lacks permissions that Tally needs (deploy/access/valkey.acl): {why}")
    if isinstance(error, REDIS_RETRY) or str(error).startswith(REDIS_RETRY_TEXTS):
        return Unavailable(f"Redis (TALLY_REDIS): {why}", kind=f"redis {type(error).__name__}")
    return Fatal(f"Redis (TALLY_REDIS) does not support an operation of claims: {why}")
