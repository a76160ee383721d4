"""Measurements of the API that are made once: idle connections, a POST and its GET, a crowd of connections."""

import asyncio
import os
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from benchmarks.command import percentiles_of
from benchmarks.http_load import Connection, burst, connected, get, post
from benchmarks.meter import usage
from schemas.identity import ID_LENGTH, PREFIX

PATH = "/v1/retrievers/interactions"
BURST_S = 3.0
BURST_CONNECTIONS = 64
CREATES = 300
CREATE_PAUSE_S = 0.02
GET_TIMEOUT_S = 10.0
CATCH_UP_S = 600.0
IDLE, SLOW, BUSY = 5_000, 500, 16
SLOW_BYTE_S = 1.0


async def idle_between_bursts(port: int, make: Callable[[], bytes], idle_s: float) -> str:
    """Send a burst, leave its connections idle, and send another one over them."""
    async with connected(port, BURST_CONNECTIONS) as opened:
        before = await burst(opened, make, BURST_S)
        await asyncio.sleep(idle_s)
        after = await burst(opened, make, BURST_S)
    failed = before.failed + after.failed
    return f"{idle_s:.0f} s idle: {failed} failed; {before.per_s:,.0f}/s before, {after.per_s:,.0f}/s after"


async def post_to_get(port: int, headers: dict[str, str], event: Callable[[], bytes]) -> str:
    """Measure the time from sending a POST to the end of the GET that finds its record."""
    async with connected(port, 1) as (connection,):
        # The first event is found once the worker has caught up with everything that was measured before.
        await _post_and_get(connection, headers, event(), CATCH_UP_S)
        took = []
        for _ in range(CREATES):
            took.append(await _post_and_get(connection, headers, event(), GET_TIMEOUT_S))
            await asyncio.sleep(CREATE_PAUSE_S)
    p50, p99 = percentiles_of(took)
    return f"POST to successful GET: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms ({CREATES} events)"


async def _post_and_get(connection: Connection, headers: dict[str, str], event: bytes, timeout_s: float) -> float:
    """Return the seconds that a POST and the GET took. Raises TimeoutError."""
    begun = time.monotonic()
    async with asyncio.timeout(timeout_s):
        _, body = await connection.request(post(PATH, headers, event))
        at = body.index(PREFIX.encode())
        wanted = get(f"{PATH}/{body[at : at + ID_LENGTH].decode()}", headers)
        while (await connection.request(wanted))[0] != HTTPStatus.OK:
            await asyncio.sleep(0)
    return time.monotonic() - begun


async def beside_a_crowd(port: int, pid: int, make: Callable[[], bytes]) -> str:
    """Compare a load alone and beside idle connections and heads that arrive a byte at a time."""
    async with connected(port, BUSY) as busy:
        alone, memory_before = await burst(busy, make, BURST_S), _resident_bytes(pid)
        async with connected(port, IDLE), connected(port, SLOW) as slow:
            dripping = asyncio.create_task(_drip([each._transport for each in slow]))
            crowded = await burst(busy, make, BURST_S)
            files, memory = _open_files(pid), _resident_bytes(pid)
            dripping.cancel()
    return (
        f"alone p50 {alone.p50_ms:.1f}, p99 {alone.p99_ms:.1f} ms; beside {IDLE:,} idle and {SLOW} slow connections "
        f"p50 {crowded.p50_ms:.1f}, p99 {crowded.p99_ms:.1f} ms, {crowded.failed} failed; {files:,} open files; "
        f"{(memory - memory_before) / 2**20:.0f} MiB more, peak {usage(pid).peak_bytes / 2**20:.0f} MiB"
    )


async def _drip(transports: list[asyncio.Transport]) -> None:
    for byte in b"POST /v1/retrievers/interactions HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 60:
        for each in transports:
            if not each.is_closing():
                each.write(bytes([byte]))
        await asyncio.sleep(SLOW_BYTE_S)


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _open_files(pid: int) -> int:
    return len([*Path(f"/proc/{pid}/fd").iterdir()])
