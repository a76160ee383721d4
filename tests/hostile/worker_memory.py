"""The memory of a worker in a process of its own."""

import asyncio
import os
import subprocess
import sys
from typing import NamedTuple

from runtime.settings import Settings


class Ended(NamedTuple):
    """How a worker ended."""

    exit_code: int
    peak_mib: float
    """The most memory that was resident at a time."""
    output: str


async def drained(settings: Settings) -> Ended:
    """Run a worker until it has caught up."""
    return await asyncio.to_thread(_run, settings)


def _run(settings: Settings) -> Ended:
    environment = {**os.environ, **settings.as_environment(), "TALLY_ACCEPT_REJECTS": "true"}
    command = [sys.executable, "-m", "consumers.worker", "--until-caught-up"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, used.ru_maxrss / 1024, output)
