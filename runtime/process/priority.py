"""CPU priority of this process."""

import os
from contextlib import suppress
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")


def lower_priority(niceness: int) -> None:
    """Lower the CPU priority of this process and of threads that it starts, to 0 (unchanged) to 19 (lowest).

    Linux may group processes by session and share CPU time among the groups. Then the niceness of a process counts
    within its group only, and the group has one of its own. It is lowered if this process has a session of its own.
    """
    lowered = max(niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, lowered)
    if lowered > 0 and os.getsid(0) == os.getpid():
        with suppress(OSError):  # the system has no such groups
            _AUTOGROUP.write_text(str(lowered))
