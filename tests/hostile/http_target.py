"""The API that hostile cases run against, and the checks after each case."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.ports import ANY_ADDRESS, free_port
from runtime.process.children import Child
from runtime.settings import Settings
from tests.cluster_lab import running_children
from tests.hostile.wire import Answer, Wire, head, wire
from tests.http_lab import BEARER, EVENT, PATH, with_key
from tests.waiting import until_it_answers

BODY = json.dumps(EVENT).encode()
CREATE = head("POST", PATH, BEARER | {"Content-Length": str(len(BODY))}) + BODY
HEALTH = head("GET", "/v1/health")
FILES = 600
"""Files that the API process may open: fewer connections than its setting says."""
CASE_S = 120.0
MOST_GROWTH_BYTES = 200 * 1024 * 1024
MOST_LOG_BYTES = 2 * 1024 * 1024


@dataclass
class Target:
    """A running API and its clients."""

    settings: Settings
    port: int
    child: Child
    stalls: Path

    def wire(self, host: str = "127.0.0.1") -> AbstractAsyncContextManager[Wire]:
        """A connection."""
        return wire(host, self.port)

    async def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Send an authorised request on a new connection; underscores in header names become hyphens."""
        named = BEARER | {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named["Content-Length"] = str(len(body))
        async with self.wire() as connection:
            await connection.send(head(method, path, named) + (body or b""))
            return await connection.answer()

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        """A POST of one of the interactions' calls: "", "/batch", "/list"."""
        return await self.call("POST", f"{PATH}{path}", body, **headers)

    async def serves(self) -> None:
        """Raise unless health and a normal create are answered."""
        assert (await self.call("GET", "/v1/health")).status == 200
        created = await self.post("", json.dumps(EVENT).encode())
        assert created.status == 200, created

    async def refuses(self, raw: bytes, *statuses: int) -> None:
        """Raise unless bytes are answered with one of these errors, in the published shape, and then nothing."""
        async with self.wire() as wire:
            await wire.send(raw)
            answer = await wire.answer()
            assert answer.status in statuses, (raw[:100], answer)
            assert answer.json["status"] == answer.status
            assert answer.headers["x-request-id"]
            assert answer.headers["connection"] == "close"
            assert await wire.is_closed(), "nothing comes after a refusal"

    @property
    def log_bytes(self) -> int:
        """Return the size of its log."""
        return self._log.stat().st_size

    def log_since(self, at: int) -> str:
        """Return its log after a position."""
        with self._log.open("rb") as file:
            file.seek(at)
            return file.read().decode(errors="replace")

    @property
    def _log(self) -> Path:
        assert self.child.log_path is not None
        return self.child.log_path

    def memory_bytes(self) -> int:
        """Return its peak memory since `forget_peak`."""
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def forget_peak(self) -> None:
        """Count the peak of its memory from now on."""
        Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")


Case = Callable[[Target], Awaitable[None]]


class Observations(NamedTuple):
    """Observations of the API during a case."""

    stall_ms: float
    growth_bytes: int
    log_bytes: int


@asynccontextmanager
async def http_target(settings: Settings, folder: Path, **overrides: Any) -> AsyncIterator[Target]:
    """An API process on its own topic and tables, with short times to wait for slow clients."""
    short = {
        "http_head_timeout_ms": 1_000,
        "http_body_timeout_ms": 2_000,
        "http_keep_alive_ms": 2_000,
        "http_write_timeout_ms": 2_000,
        "stop_timeout_ms": 3_000,
    }
    settings = with_key(settings, **(short | overrides))
    await create_topics(settings)
    await migrate(settings)
    port, stalls = free_port(), folder / "stalls"
    stalls.touch()
    command = [sys.executable, "-m", "tests.hostile.watched_api", str(stalls), str(FILES), "all"]
    with running_children() as children:
        child = children.start(
            "api",
            [*command, "--host", ANY_ADDRESS, "--port", str(port)],
            log_path=folder / "api.log",
            environment=settings.as_environment(),
        )
        await until_it_answers(f"http://127.0.0.1:{port}/v1/ready")
        target = Target(settings, port, child, stalls)
        await target.serves()
        yield target


async def run_case(target: Target, case: Case) -> Observations:
    """Run a case. Raises AssertionError when it, or anything that has to hold after each case, does not hold."""
    log_at, stalls_at = target.log_bytes, target.stalls.stat().st_size
    target.forget_peak()
    memory = target.memory_bytes()
    async with asyncio.timeout(CASE_S):
        await case(target)
        await target.serves()
    assert target.child.exit_code is None, "the API has ended"
    logged = target.log_since(log_at)
    assert "Traceback" not in logged, logged[:10_000]
    assert "accepting connections pauses" not in logged, "it ran out of descriptors"
    metrics = (await target.call("GET", "/metrics")).body
    assert b'status="500"' not in metrics, "a 500 was answered"
    assert len(logged) < MOST_LOG_BYTES, f"{len(logged):,} bytes of log"
    growth = target.memory_bytes() - memory
    assert growth < MOST_GROWTH_BYTES, f"memory grew by {growth:,} bytes"
    stalls = target.stalls.read_text()[stalls_at:].split()
    return Observations(max(map(float, stalls), default=0.0), growth, len(logged))
