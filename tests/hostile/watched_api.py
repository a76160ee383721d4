"""An API process whose event loop is watched: `python -m tests.hostile.watched_api STALLS FILES all --port PORT`.

It appends each stall of the loop to the file STALLS, in milliseconds, and may open no more than FILES files.
"""

import asyncio
import contextlib
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tally import serve

PACE_S = 0.005
REPORTED_FROM_S = 0.01


async def watch(stalls: Path) -> None:
    """Note how late the loop comes back. Time that the machine gave to others is not counted: only work is a stall."""
    with stalls.open("a") as file:
        while True:
            begun, worked = time.perf_counter(), time.process_time()
            await asyncio.sleep(PACE_S)
            late_s = min(time.perf_counter() - begun - PACE_S, time.process_time() - worked)
            if late_s >= REPORTED_FROM_S:
                file.write(f"{late_s * 1000:.1f}\n")
                file.flush()


def main() -> None:
    """Serve as `tally.serve` does, beside the watch."""
    stalls, files = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    serving = serve.serve

    async def watched(*given: Any) -> None:
        watching = asyncio.create_task(watch(stalls))
        try:
            await serving(*given)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    serve.serve = watched  # type: ignore[assignment]
    serve.main()


if __name__ == "__main__":
    main()
