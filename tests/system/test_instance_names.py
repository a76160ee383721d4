"""A name in the group belongs to one process: a second one is refused, and no restart is."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.errors import SettingsError
from runtime.redis import Redis
from runtime.settings import Settings
from tests.cli_lab import CLEAN, TALLY
from tests.lab import Lab, as_json
from tests.waiting import eventually, eventually_async

NAME = "host-1"
INSTANCE = f"{NAME}-worker-0"


class Consume:
    """A `tally consume` of one name, which supervises one worker."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [TALLY, "consume", "--name", NAME],
                stdout=file,
                stderr=file,
                env=CLEAN | settings.as_environment(),
                start_new_session=True,
            )

    def said(self, what: str) -> bool:
        """Return whether it has printed this; fail the test when it has ended without."""
        text = self.log.read_text()
        assert what in text or self.process.poll() is None, text
        return what in text

    def has_partitions(self, times: int = 1) -> bool:
        """Return whether its workers were assigned partitions this many times."""
        return self.said("partitions 0, 1, 2, 3") and self.log.read_text().count("partitions 0, 1, 2, 3") >= times


@contextmanager
def consume(settings: Settings, log: Path) -> Iterator[Consume]:
    """Run a consumer, and stop it at the end."""
    running = Consume(settings, log)
    try:
        yield running
    finally:
        running.process.terminate()
        running.process.wait(60)


async def test_a_second_worker_of_a_name_is_refused_and_the_first_continues(lab: Lab, tmp_path: Path) -> None:
    """The second logs the reason; its supervisor does not restart it."""
    with consume(lab.settings, tmp_path / "first.log") as first:
        await asyncio.to_thread(eventually, first.has_partitions)
        with consume(lab.settings, tmp_path / "second.log") as second:
            assert await asyncio.to_thread(second.process.wait, 60) == SettingsError.exit_code
            logged = second.log.read_text()
        assert f"another worker runs under the name {INSTANCE}" in logged
        assert "choose another --name" in logged
        assert "Traceback" not in logged
        await lab.put(as_json(), partition=1)
        await eventually_async(lambda: _has_rows(lab, 1))
        assert first.log.read_text().count("partitions 0, 1, 2, 3") == 1, "it was never disturbed"


async def _has_rows(lab: Lab, count: int) -> bool:
    return await lab.count("interactions") == count


async def test_a_worker_that_was_killed_gets_its_name_back_at_once(
    lab: Lab, tmp_path: Path, narrow: Settings, redis: Redis
) -> None:
    """From its supervisor, and from another one once that was killed, too, though Redis still has the name."""
    patient = lab.settings.model_copy(update={"session_timeout_ms": 60_000})
    key = f"{patient.key_prefix}:instance:{patient.group}:{INSTANCE}"

    async def worker() -> int:
        found: Any = await redis.get(key)
        return int(found.split()[1])

    with consume(patient, tmp_path / "first.log") as first:
        await asyncio.to_thread(eventually, first.has_partitions)
        before = await worker()
        os.kill(before, signal.SIGKILL)
        await asyncio.to_thread(eventually, lambda: first.has_partitions(2))
        after = await worker()
        assert before != after
        first.process.kill()
        first.process.wait()
        await asyncio.to_thread(eventually, lambda: not Path(f"/proc/{after}").exists())
        with consume(patient, tmp_path / "second.log") as second:
            await asyncio.to_thread(eventually, second.has_partitions)
    assert await redis.pttl(key) <= 1, "a name that was left in order is free"
