"""The supervisor: keeps a number of worker processes running."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consumers.ceiling import TooManyRejects
from runtime.children import Child, Children
from runtime.errors import Fatal, SettingsError
from runtime.settings import Settings

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
STABLE_AFTER_S = 30.0
"""A worker that ran this long and died is restarted at once again."""

_FOR_GOOD = {Fatal.exit_code, SettingsError.exit_code, TooManyRejects.exit_code}


@dataclass
class _Slot:
    """One worker's place: who fills it, and when it may be filled again."""

    name: str
    child: Child | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    done: bool = False


class Supervisor:
    """Starts workers, restarts what dies, and stops them all. Drive it by calling `poll` often."""

    def __init__(
        self,
        children: Children,
        settings: Settings,
        *,
        workers: int,
        instance_prefix: str | None,
        log_dir: Path | None,
        until_caught_up: bool = False,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._children = children
        self._environment = settings.as_environment()
        self._stop_timeout_s = settings.stop_timeout_ms / 1000 + 5
        self._instance_prefix = instance_prefix
        self._log_dir = log_dir
        self._until_caught_up = until_caught_up
        self._say = say
        self._slots = [_Slot(f"worker-{number}") for number in range(workers)]

    def start(self) -> None:
        """Start every worker."""
        for slot in self._slots:
            self._start(slot)

    def _start(self, slot: _Slot) -> None:
        command = [sys.executable, "-m", "consumers.worker"]
        if self._instance_prefix is not None:
            command += ["--instance", f"{self._instance_prefix}-{slot.name}"]
        if self._until_caught_up:
            command += ["--until-caught-up"]
        log_path = self._log_dir / f"{slot.name}.log" if self._log_dir else None
        slot.child = self._children.start(slot.name, command, log_path=log_path, environment=self._environment)
        slot.started_at = time.monotonic()

    def poll(self) -> bool:
        """Look after every worker; returns whether any is still to run.

        Raises ChildFailed when a worker ended in a way that starting it again cannot mend.
        """
        now = time.monotonic()
        for slot in self._slots:
            if slot.child is not None and slot.child.exit_code is not None:
                self._ended(slot, slot.child, now)
            if slot.child is None and not slot.done and now >= slot.restart_at:
                self._start(slot)
        return not all(slot.done for slot in self._slots)

    def _ended(self, slot: _Slot, child: Child, now: float) -> None:
        self._children.reaped(child)
        slot.child = None
        if child.exit_code == 0:
            slot.done = True
            return
        if child.exit_code is not None and child.exit_code in _FOR_GOOD:
            failure = child.failure(f"{child.describe_exit()} and will not be restarted")
            failure.exit_code = child.exit_code
            raise failure
        slot.failures = 0 if now - slot.started_at > STABLE_AFTER_S else slot.failures + 1
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**slot.failures)
        slot.restart_at = now + delay_s
        self._say(f"{slot.name} (pid {child.pid}) {child.describe_exit()}; restarting in {delay_s:.1f} s")

    @property
    def pids(self) -> list[int]:
        """The workers that run now."""
        return [slot.child.pid for slot in self._slots if slot.child is not None]

    def stop(self, timeout_s: float | None = None) -> None:
        """Let every worker finish its batch, commit and leave. Safe to call twice.

        What takes longer than `timeout_s` (default: the stop timeout and a little more) is killed.
        """
        running = [slot.child for slot in self._slots if slot.child is not None]
        self._children.stop_all(running, timeout_s or self._stop_timeout_s)
        for slot in self._slots:
            slot.child, slot.done = None, True
