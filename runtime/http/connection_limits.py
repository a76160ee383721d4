"""Bounds of HTTP connections: what each may bring and how long it may take, and how many there may be."""

import logging
import resource
from typing import NamedTuple, Self

from runtime.settings import Settings

SURPLUS_CONNECTIONS = 64
"""Further connections on which health, readiness and metrics answer, and everything else is 503."""
ACCEPTED_TOGETHER = 16
"""Connections that are accepted in one round of the event loop."""
ROUNDS_UNTIL_CLOSED = 8
"""From the round that accepts a connection to the one that has closed it again, at most."""
OTHER_DESCRIPTORS = 256
"""Descriptors for files, and for connections to the stores."""

log = logging.getLogger("tally.api")


class ConnectionLimits(NamedTuple):
    """Bounds of one connection, and how many there may be."""

    connections: int
    head_bytes: int
    headers: int
    pipelined: int
    rest_bytes: int
    """Bytes of a body that is no longer needed, read so that the client sees its answer."""
    head_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    write_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that settings draw."""
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


def within_descriptors(limits: ConnectionLimits) -> ConnectionLimits:
    """The limits, with no more connections than the process may open files; its soft limit is raised as needed."""
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
        "this process may open %d files: it serves %d connections instead of %d. Raise the limit (ulimit -n), or lower "
        "TALLY_HTTP_CONNECTIONS",
        allowed,
        connections,
        limits.connections,
    )
    return limits._replace(connections=connections)
