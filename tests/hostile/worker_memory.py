"""The memory of a worker in a process of its own."""

import asyncio
import os
import subprocess
import sys
from typing import NamedTuple

from runtime.settings import Settings

# The peak of an ended child may be the parent's own size from before the child's program started.
_PROGRAM = """
from pathlib import Path
from consumers.worker import main
main()
print(*(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


class WorkerEnd(NamedTuple):
    """End of a worker: exit code and peak memory."""

    exit_code: int
    peak_mib: float
    """The most memory that was resident at a time."""
    output: str


async def drained(settings: Settings) -> WorkerEnd:
    """Run a worker until it has caught up."""
    environment = {**os.environ, **settings.as_environment()}
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", _PROGRAM, "--until-caught-up"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    peak_kib = int(ran.stdout.split()[1]) if ran.returncode == 0 else 0
    return WorkerEnd(ran.returncode, peak_kib / 1024, ran.stderr)
