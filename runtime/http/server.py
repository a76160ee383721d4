"""uvicorn servers: graceful stop on SIGTERM and SIGINT, and bounded connections for the API."""

import asyncio
import logging
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from runtime.http.connection import BoundedConnection
from runtime.http.connection_limits import ACCEPTED_TOGETHER, ROUNDS_UNTIL_CLOSED, ConnectionLimits, within_descriptors
from runtime.http.turns import StartQueue
from runtime.metrics import CONNECTIONS
from runtime.ports import BACKLOG
from runtime.settings import Settings

LAST_REQUEST_S = 1.0
"""Time that idle connections have at a stop to send a request, whose response announces their end."""
STOP_POLL_S = 0.01

log = logging.getLogger("tally.api")


class GracefulServer(uvicorn.Server):
    """Server with its own signal handling: uvicorn's re-raises the signal before the caller can close resources."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield

    async def serve_until_signal(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then finish requests in flight."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self.serve(list(sockets) if sockets else None)

    def stop(self) -> None:
        """Stop accepting, finish running requests, and return from `serve`."""
        self.should_exit = True


class ApiServer(GracefulServer):
    """Server of an application with bounded connections."""

    def __init__(self, app: Any, settings: Settings) -> None:
        limits = within_descriptors(ConnectionLimits.of(settings))
        protocol: Any = partial(BoundedConnection, limits, StartQueue(), lambda: self.should_exit)
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
        """Start to accept. asyncio accepts `backlog` connections at a time; the kernel may queue more."""
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop without breaking a request: the response to one that arrives meanwhile ends its connection.

        1. Serve connections that the kernel has accepted; closing the listening socket would reset them.
        2. Stop listening.
        3. Announce the end of each connection with its next response. Idle ones have LAST_REQUEST_S to send a request.
        4. Close idle connections, and finish requests in flight.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + LAST_REQUEST_S
        queue = select.poll()
        for each in sockets or ():
            queue.register(each, select.POLLIN)
        while queue.poll(0) and now() < deadline:  # noqa: ASYNC110  (the event loop accepts them)
            await asyncio.sleep(0)
        for _ in range(ROUNDS_UNTIL_CLOSED):
            await asyncio.sleep(0)  # until an accepted connection is among those of the server
        for server in self.servers:
            server.close()
        while self.server_state.connections and now() < deadline:  # noqa: ASYNC110  (uvicorn has no event for it)
            await asyncio.sleep(STOP_POLL_S)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Close connections that exceed a time limit. uvicorn calls this ten times a second."""
        now = asyncio.get_running_loop().time()
        connections: list[Any] = list(self.server_state.connections)
        CONNECTIONS.set(len(connections))
        for connection in connections:
            connection.check(now)
        return await super().on_tick(counter)


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, without a stack trace when file descriptors ran out."""
    if str(context.get("message")).startswith("socket.accept() out of system resource"):
        log.error(
            "accepting connections pauses for a second: %s. Raise the limit of open files (ulimit -n), or lower "
            "TALLY_HTTP_CONNECTIONS",
            context.get("exception"),
        )
    else:
        loop.default_exception_handler(context)
