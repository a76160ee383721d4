"""uvicorn as a process of ours: SIGTERM and SIGINT end it in order, with exit code 0."""

import asyncio
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvicorn


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
