"""HTTP load: connections that each send one request after another, with a minimal client.

On two cores a full HTTP client would take more CPU than the server.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import NamedTuple

from benchmarks.command import percentiles_of

CONNECTING_TOGETHER = 64
HEAD_END = b"\r\n\r\n"


class LoadResult(NamedTuple):
    """Result of a load: requests per second, latencies in ms, and failed requests."""

    per_s: float
    p50_ms: float
    p99_ms: float
    failed: int = 0


class Connection(asyncio.Protocol):
    """Connection that has at most one request in flight. Its methods are a third of the cost of a stream's."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  (of TCP)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Complete the request in flight once its response is complete."""
        self._received += data
        end = self._received.find(HEAD_END)
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        _, found, rest = head.partition(b"content-length:")
        size = end + len(HEAD_END) + (int(rest.split(b"\r\n", 1)[0]) if found else 0)
        if len(self._received) >= size and self._answer is not None and not self._answer.done():
            body = bytes(self._received[end + len(HEAD_END) : size])
            del self._received[:size]
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, _error: Exception | None) -> None:
        """Fail the request in flight."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))

    async def request(self, raw: bytes) -> tuple[int, bytes]:
        """Send a request. Return the response's status and body. Raises ConnectionResetError."""
        if self._transport.is_closing():
            raise ConnectionResetError("the server has closed the connection")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def open_connection(port: int) -> Connection:
    """Open a local connection. Raises OSError."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


@asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """Open local connections, and close them with the block."""
    opened = list[Connection]()
    try:
        while len(opened) < count:
            together = min(CONNECTING_TOGETHER, count - len(opened))
            opened += await asyncio.gather(*(open_connection(port) for _ in range(together)))
        yield opened
    finally:
        for each in opened:
            each.close()


async def burst(connections: list[Connection], make: Callable[[], bytes], seconds: float) -> LoadResult:
    """Send requests of `make` over all connections for `seconds`. A status other than 200 is a failed request."""
    took, failed, begun = list[float](), 0, time.monotonic()

    async def send(connection: Connection) -> None:
        nonlocal failed
        while (sent := time.monotonic()) < begun + seconds:
            try:
                status, body = await connection.request(make())
            except ConnectionResetError as error:
                failed += 1
                print(f"failed: {error}", flush=True)
                return
            if status == HTTPStatus.OK:
                took.append(time.monotonic() - sent)
            else:
                failed += 1
                print(f"failed: {status} {body[:300].decode(errors='replace')}", flush=True)

    await asyncio.gather(*map(send, connections))
    elapsed = time.monotonic() - begun
    if not took:
        raise RuntimeError("no request succeeded")
    p50, p99 = percentiles_of(took)
    return LoadResult(len(took) / elapsed, p50 * 1000, p99 * 1000, failed)


async def load(port: int, make: Callable[[], bytes], *, connections: int, seconds: float) -> LoadResult:
    """Open connections, and send requests over them for `seconds`."""
    async with connected(port, connections) as opened:
        return await burst(opened, make, seconds)


async def at_rate(
    port: int, make: Callable[[], bytes], rate_per_s: float, *, connections: int, seconds: float
) -> LoadResult:
    """Send requests at a rate, whether earlier ones are answered or not. Latencies count from the time of sending.

    A request waits for a connection while all are in use, which counts, too.
    """
    took, failed, idle = list[float](), 0, asyncio.Queue[Connection]()

    async def send(due: float) -> None:
        nonlocal failed
        connection = await idle.get()
        status, _ = await connection.request(make())
        took.append(time.monotonic() - due)
        failed += status != HTTPStatus.OK
        idle.put_nowait(connection)

    async with connected(port, connections) as opened, asyncio.TaskGroup() as sending:
        for each in opened:
            idle.put_nowait(each)
        begun = time.monotonic()
        for number in range(int(rate_per_s * seconds)):
            due = begun + number / rate_per_s
            if (pause_s := due - time.monotonic()) > 0:
                await asyncio.sleep(pause_s)
            sending.create_task(send(due))
    p50, p99 = percentiles_of(took)
    return LoadResult(len(took) / (time.monotonic() - begun), p50 * 1000, p99 * 1000, failed)


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a POST request."""
    named = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    return _head("POST", path, named) + body


def get(path: str, headers: dict[str, str]) -> bytes:
    """Return a GET request."""
    return _head("GET", path, headers)


def _head(method: str, path: str, headers: dict[str, str]) -> bytes:
    given = {"Host": "127.0.0.1", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode()
