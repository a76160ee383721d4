"""A short slice of the campaign (`make chaos` runs all of it), and one control: it can fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from consumers.failpoints import FAILPOINTS
from deploy.embedded.stack import Stack
from tests.chaos.controls import CONTROLS
from tests.chaos.plan import FAULTS, Plan, plan
from tests.chaos.run import Run

PAIRS = (
    ("stored", "kill", "kafka"),
    ("signalled", "kill", "kafka"),
    ("claimed", "stop", "kafka"),
    ("restored", "rebalance", "kafka"),
    ("refused", "crash", "kafka"),
    ("resumed", "rollback", "redis"),
    ("recorded", "lost-answers", "clickhouse"),
    ("claimed", "late-requests", "clickhouse"),
)


@pytest.mark.parametrize(("failpoint", "fault", "store"), PAIRS)
async def test_a_fault_at_a_failpoint_changes_nothing(
    stack: Stack, tmp_path: Path, failpoint: str, fault: str, store: str
) -> None:
    result = await Run(Plan(1, 4711, failpoint, fault, 1, store), stack, tmp_path).execute()
    assert result.met
    assert not result.problems


async def test_a_worker_that_commits_before_it_inserts_is_caught(stack: Stack, tmp_path: Path) -> None:
    """The worker must be killed while a batch is in flight, which not every run achieves."""
    for seed in range(4711, 4721):
        planned = Plan(1, seed, "resumed", "kill", 3, "kafka")
        result = await Run(planned, stack, tmp_path, control="commit-before-insert").execute()
        if any("lost" in problem for problem in result.problems):
            return
    pytest.fail("ten runs, and nothing lost")


BEGIN_EACH = """
import os
from tests.chaos.controls import CONTROLS

for control, begin in CONTROLS.items():
    if not (child := os.fork()):
        begin()
        os._exit(0)
    print(control, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_each_control_can_still_be_applied() -> None:
    """A control that cannot be applied would look like a detected one. Each is applied in a process of its own."""
    ran = subprocess.run([sys.executable, "-c", BEGIN_EACH], check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == [f"{control} 0" for control in CONTROLS], ran.stderr


def test_every_failpoint_gets_every_fault_several_times_in_a_thousand_runs() -> None:
    plans = [plan(number, 1) for number in range(1_000)]
    for failpoint in FAILPOINTS:
        for fault in FAULTS:
            assert sum((each.failpoint, each.fault) == (failpoint, fault) for each in plans) >= 5
        assert sum((each.failpoint, each.fault) == (failpoint, "restart") for each in plans) >= 3
