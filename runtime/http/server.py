"""uvicorn as a process of ours: it ends in order on SIGTERM and SIGINT, and the API's connections are bounded."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from runtime.http.connection import BoundedConnection
from runtime.http.connection_limits import ACCEPTED_TOGETHER, ConnectionLimits, within_descriptors
from runtime.http.turns import StartQueue
from runtime.metrics import CONNECTIONS
from runtime.ports import BACKLOG
from runtime.settings import Settings

log = logging.getLogger("tally.api")


class GracefulServer(uvicorn.Server):
    """Its own signal handling ends the process by the signal, before what is open around `serve` could be closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def serve_until_signal(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve until SIGTERM or SIGINT; requests in flight may end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self.serve(list(sockets) if sockets else None)

    def stop(self) -> None:
        """Stop accepting, let running requests end, return from `serve`."""
        self.should_exit = True


class ApiServer(GracefulServer):
    """Serves an application over bounded connections."""

    def __init__(self, app: Any, settings: Settings) -> None:
        limits = within_descriptors(ConnectionLimits.of(settings))
        protocol: Any = partial(BoundedConnection, limits, StartQueue())
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
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
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


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the event loop could not do. A lack of descriptors is no fault of the code, and gets no stack trace."""
    if str(context.get("message")).startswith("socket.accept() out of system resource"):
        log.error(
            "no connection can be accepted for a second: %s. Raise the process's limit of open files (ulimit -n), or "
            "lower TALLY_HTTP_CONNECTIONS",
            context.get("exception"),
        )
    else:
        loop.default_exception_handler(context)
