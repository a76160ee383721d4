"""The stop of an API process under load."""

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.types import Receive, Scope, Send

from runtime.http.answer import Answer
from runtime.http.server import ApiServer
from runtime.ports import free_port, listening_sockets
from runtime.settings import Settings
from tests.waiting import eventually_async

CLIENTS = 16
BEFORE = 20
REQUEST = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the body and waits for one iteration of the event loop."""
    if scope["type"] == "http":
        await receive()
        await asyncio.sleep(0)
        await Answer.of(200, b'{"ok":true}').send(send)


def response_to(connection: socket.socket, request: bytes) -> bytes:
    """Make a request, and read the whole response; empty when the connection ended without one."""
    try:
        connection.sendall(request)
        response = b""
        while b'{"ok":true}' not in response:
            if not (more := connection.recv(4_096)):
                return b""
            response += more
    except OSError:
        return b""
    return response


def ask_until_closed(port: int, count: Callable[[], None]) -> str:
    """Make requests on one connection until a response announces its end. Return how it ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        while True:
            response = response_to(connection, REQUEST)
            if not response:
                return "broken"
            count()
            if b"connection: close" in response:
                return "announced" if connection.recv(1) == b"" else "more bytes"


async def test_a_stop_under_load_breaks_no_request() -> None:
    """Each connection ends with a response that announces its end, and no request is left without a response."""
    server = ApiServer(app, Settings())
    port, counts, lock = free_port(), list[int](), threading.Lock()

    def count() -> None:
        with lock:
            counts.append(1)

    async def have_begun() -> bool:
        return len(counts) >= CLIENTS * BEFORE

    async def has_started() -> bool:
        return server.started

    # The event loop's own threads are fewer than the clients, and the wait for a condition needs one of them.
    with listening_sockets("127.0.0.1", port) as sockets, ThreadPoolExecutor(CLIENTS) as threads:
        serving = asyncio.create_task(server.serve(sockets))
        await eventually_async(has_started)
        asked = [asyncio.wrap_future(threads.submit(ask_until_closed, port, count)) for _ in range(CLIENTS)]
        try:
            await eventually_async(have_begun)
        finally:
            server.stop()
        ends = await asyncio.gather(*asked)
        await serving
    assert ends == ["announced"] * CLIENTS


class BusyServer(ApiServer):
    """Server whose clients connect and send requests just when it stops."""

    def __init__(self, port: int) -> None:
        super().__init__(app, Settings())
        self.port = port
        self.clients: list[socket.socket] = []

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for _ in range(40):
            self.clients.append(socket.create_connection(("127.0.0.1", self.port)))
            self.clients[-1].sendall(REQUEST)
        await super().shutdown(sockets)


async def test_connections_that_the_kernel_has_accepted_are_served_at_a_stop() -> None:
    """Closing the listening socket would reset the connections in its queue."""
    server = BusyServer(free_port())
    with listening_sockets("127.0.0.1", server.port) as sockets:
        server.stop()
        await server.serve(sockets)
    responses = [each.recv(4_096) for each in server.clients]
    for each in server.clients:
        each.close()
    assert len(responses) == 40
    assert all(each.startswith(b"HTTP/1.1 200 ") and b"connection: close" in each for each in responses)
