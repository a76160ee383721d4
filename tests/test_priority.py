"""The CPU priority of a process is lowered, and that of its session only if the session is its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_LOWERED = """
import os
from pathlib import Path
from runtime.process.priority import lower_priority

lower_priority(7)
lower_priority(3)
group = Path("/proc/self/autogroup")
print(os.getpriority(os.PRIO_PROCESS, 0), *(group.read_text().split() if group.exists() else [])[-1:])
"""
_AUTOGROUP = Path("/proc/self/autogroup")


@pytest.mark.parametrize("own_session", [True, False])
def test_a_process_lowers_itself_and_never_the_session_of_others(*, own_session: bool) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    command = [sys.executable, "-P", "-c", _LOWERED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=own_session)
    process, *session = done.stdout.split()
    assert int(process) == max(7, before), "never raised again, which needs a right"
    if own_session:
        assert session in (["7"], []), "no group: the system does not group by session"
    else:
        # The file is empty if this session began before there were groups, as the first of a container does.
        assert session == (_AUTOGROUP.read_text().split() if _AUTOGROUP.exists() else [])[-1:]


_WORKER = """
import os
from consumers import worker

worker.asyncio.run = lambda work: (work.close(), print(os.getpriority(os.PRIO_PROCESS, 0)))
worker.main()
"""


def test_a_worker_has_the_niceness_of_its_setting() -> None:
    command = [sys.executable, "-P", "-c", _WORKER]
    environment = os.environ | {"TALLY_WORKER_NICENESS": "9"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(done.stdout) == max(9, os.getpriority(os.PRIO_PROCESS, 0))
