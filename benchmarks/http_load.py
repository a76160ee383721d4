"""HTTP load: connections that each send one request after another, with a minimal client.

On two cores a full HTTP client would take more CPU than the server.
"""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from benchmarks.command import percentiles_of


class LoadResult(NamedTuple):
    """Result of a load: requests per second, and latencies in ms."""

    per_s: float
    p50_ms: float
    p99_ms: float


async def load(port: int, make: Callable[[], bytes], *, connections: int, seconds: float) -> LoadResult:
    """Send requests of `make` over local connections for `seconds`. Raises RuntimeError for a status other than 200."""
    took: list[float] = []
    begun = time.monotonic()
    await asyncio.gather(*(_keep_asking(port, make, begun + seconds, took) for _ in range(connections)))
    elapsed = time.monotonic() - begun
    p50, p99 = percentiles_of(took)
    return LoadResult(len(took) / elapsed, p50 * 1000, p99 * 1000)


async def _keep_asking(port: int, make: Callable[[], bytes], deadline: float, took: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (begun := time.monotonic()) < deadline:
            status, body = await request(reader, writer, make())
            if status != HTTPStatus.OK:
                raise RuntimeError(f"{status}: {body[:300].decode(errors='replace')}")
            took.append(time.monotonic() - begun)
    finally:
        writer.close()


async def request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes) -> tuple[int, bytes]:
    """Send a request, and return the response's status and body."""
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
    return int(head[9:12]), await reader.readexactly(int(length))


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a POST request."""
    named = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    return _head("POST", path, named) + body


def get(path: str, headers: dict[str, str]) -> bytes:
    """Return a GET request."""
    return _head("GET", path, headers)


def _head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()
