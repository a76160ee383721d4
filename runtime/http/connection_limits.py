"""Bounds of HTTP connections: sizes, times and their number."""

import logging
import resource
from typing import NamedTuple, Self

from runtime.http.errors import ApiError
from runtime.settings import Settings

SURPLUS_CONNECTIONS = 64
"""Connections beyond the limit on which health, readiness and metrics are served, and all else is 503."""
ACCEPTED_TOGETHER = 16
"""Maximum connections that are accepted in one iteration of the event loop."""
ROUNDS_UNTIL_CLOSED = 8
"""Maximum iterations from accepting a connection until it is closed again."""
OTHER_DESCRIPTORS = 256
"""Descriptors reserved for files, and for connections to the stores."""

log = logging.getLogger("tally.api")


class ConnectionLimits(NamedTuple):
    """Bounds of one connection, and the maximum number of connections."""

    connections: int
    head_bytes: int
    headers: int
    pipelined: int
    rest_bytes: int
    """Bytes of an unneeded body that are read, so that the client sees its response."""
    head_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    write_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits of these settings."""
        return cls(
            connections=settings.http_connections,
            head_bytes=settings.http_head_bytes,
            headers=settings.http_headers,
            pipelined=settings.http_pipelined,
            rest_bytes=max(settings.http_body_bytes, settings.http_batch_bytes),
            head_timeout_s=settings.http_head_timeout_ms / 1000,
            body_timeout_s=settings.http_body_timeout_ms / 1000,
            keep_alive_s=settings.http_keep_alive_ms / 1000,
            write_timeout_s=settings.http_write_timeout_ms / 1000,
        )

    def head_too_large(self, url_bytes: int) -> ApiError:
        """Return the error for a head that is too large, by the size of its URL."""
        limit = f"larger than {self.head_bytes} bytes (TALLY_HTTP_HEAD_BYTES)"
        if url_bytes > self.head_bytes // 2:
            return ApiError(414, f"the URL with its headers is {limit}")
        return ApiError(431, f"the headers are {limit}")


def within_descriptors(limits: ConnectionLimits) -> ConnectionLimits:
    """Limit connections to the files that the process may open. The soft limit is raised as needed."""
    others = SURPLUS_CONNECTIONS + ACCEPTED_TOGETHER * ROUNDS_UNTIL_CLOSED + OTHER_DESCRIPTORS
    needed = limits.connections + others
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return limits
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed >= needed:
        return limits
    connections = max(1, allowed - others)
    log.warning(
        "this process may open %d files, so it serves %d connections instead of %d. Raise the limit (ulimit -n), or "
        "lower TALLY_HTTP_CONNECTIONS",
        allowed,
        connections,
        limits.connections,
    )
    return limits._replace(connections=connections)
