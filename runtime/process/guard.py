"""Guard process that outlives its parent just long enough to stop the parent's children.

It reads `+pid` and `-pid` lines from standard input. When the last writer is gone (the parent ended, crashed or was
killed) it stops the remaining processes, last started first.
"""

import os
import signal
import sys
import time

STOP_S = 15.0
POLL_S = 0.05


def main() -> None:
    """Read until end of file, then stop the remaining processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pids: dict[int, None] = {}
    for line in sys.stdin.buffer:
        sign, pid = line[:1], int(line[1:])
        if sign == b"+":
            pids[pid] = None
        else:
            pids.pop(pid, None)
    left = list(reversed(pids))
    for sent in (signal.SIGTERM, signal.SIGKILL):
        left = [pid for pid in left if _signal(pid, sent)]
        deadline = time.monotonic() + STOP_S
        while left and time.monotonic() < deadline:
            time.sleep(POLL_S)
            left = [pid for pid in left if _signal(pid, 0)]


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
