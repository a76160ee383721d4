"""uvicorn as a process of ours: it ends in order on SIGTERM and SIGINT, and the API's connections are bounded."""

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from runtime.http.connection import SURPLUS_CONNECTIONS, BoundedConnection, Limits
from runtime.metrics import CONNECTIONS
from runtime.ports import BACKLOG
from runtime.settings import Settings

ACCEPTED_TOGETHER = 128
OTHER_DESCRIPTORS = 256
"""Of files, and of connections to the stores."""

log = logging.getLogger("tally.api")


class OrderlyServer(uvicorn.Server):
    """Its own signal handling ends the process by the signal, before what is open around `serve` could be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def serve_until_told(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve until SIGTERM or SIGINT; requests in flight may end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self.serve(list(sockets) if sockets else None)

    def stop(self) -> None:
        """Stop accepting, let running requests end, return from `serve`."""
        self.should_exit = True


class ApiServer(OrderlyServer):
    """Serves an application over bounded connections."""

    def __init__(self, app: Any, settings: Settings) -> None:
        limits = within_descriptors(Limits.of(settings))
        protocol: Any = partial(BoundedConnection, limits)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                loop="asyncio",
                ws="none",
                lifespan="on",
                proxy_headers=False,
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=ACCEPTED_TOGETHER,
                timeout_graceful_shutdown=settings.stop_timeout_ms // 1000,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept; `backlog` is also how many asyncio accepts at a time, and the kernel may keep more."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)

    async def on_tick(self, counter: int) -> bool:
        """End connections that have taken too long. uvicorn calls it ten times a second."""
        now = asyncio.get_running_loop().time()
        connections: list[Any] = list(self.server_state.connections)
        CONNECTIONS.set(len(connections))
        for connection in connections:
            connection.check(now)
        return await super().on_tick(counter)


def within_descriptors(limits: Limits) -> Limits:
    """The limits, with no more connections than the process may open files; its soft limit is raised as needed."""
    others = SURPLUS_CONNECTIONS + ACCEPTED_TOGETHER + OTHER_DESCRIPTORS
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
