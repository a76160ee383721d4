"""HTTP load: connections that each send one request after another, with as little of a client as there can be.

On two cores a full client would take more of the processors than what it asks.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Served(NamedTuple):
    """What a server did with a load."""

    per_s: float
    p50_ms: float
    p99_ms: float


async def load(port: int, request: Callable[[], bytes], *, connections: int, seconds: float) -> Served:
    """Send what `request` makes over so many connections of this machine, for so long.

    Raises RuntimeError for an answer that is not 200.
    """
    took: list[float] = []
    begun = time.monotonic()
    await asyncio.gather(*(_keep_asking(port, request, begun + seconds, took) for _ in range(connections)))
    elapsed = time.monotonic() - begun
    took.sort()
    return Served(len(took) / elapsed, statistics.median(took) * 1000, took[int(len(took) * 0.99)] * 1000)


async def _keep_asking(port: int, request: Callable[[], bytes], deadline: float, took: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while (begun := time.monotonic()) < deadline:
            writer.write(request())
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            body = await reader.readexactly(int(length))
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{head.splitlines()[0].decode()}: {body[:300].decode(errors='replace')}")
            took.append(time.monotonic() - begun)
    finally:
        writer.close()


def get(path: str, headers: dict[str, str]) -> bytes:
    """A GET request."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()
