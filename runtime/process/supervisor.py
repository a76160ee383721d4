"""Supervisor that keeps a number of processes running."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import Fatal, SettingsError
from runtime.process.children import Child, Children

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0
STABLE_AFTER_S = 30.0
"""Run time after which a process's failures no longer delay its restart."""

PERMANENT_EXIT_CODES = frozenset({each.exit_code for each in (Fatal, SettingsError)})
"""Exit codes of errors that a restart cannot repair."""


@dataclass
class _Slot:
    """Slot of one process: its current child, and the time of its next start."""

    name: str
    command: Sequence[str]
    child: Child | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    done: bool = False


class Supervisor:
    """Supervisor of processes: starts, restarts and stops them. Call `poll` often."""

    def __init__(
        self,
        children: Children,
        commands: Mapping[str, Sequence[str]],
        *,
        environment: Mapping[str, str],
        stop_timeout_s: float,
        log_dir: Path | None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """Take `commands` by process name; `say` receives one line per restart."""
        self._children = children
        self._environment = environment
        self._stop_timeout_s = stop_timeout_s
        self._log_dir = log_dir
        self._say = say
        self._slots = [_Slot(name, command) for name, command in commands.items()]

    def start(self) -> None:
        """Start every process."""
        for slot in self._slots:
            self._start(slot)

    def _start(self, slot: _Slot) -> None:
        log_path = self._log_dir / f"{slot.name}.log" if self._log_dir else None
        slot.child = self._children.start(slot.name, slot.command, log_path=log_path, environment=self._environment)
        slot.started_at = time.monotonic()

    def poll(self) -> bool:
        """Restart ended processes, and return whether any is still to run.

        Raises ChildFailed when a process ended with an error that a restart cannot repair.
        """
        now = time.monotonic()
        for slot in self._slots:
            if slot.child is not None and slot.child.exit_code is not None:
                self._ended(slot, slot.child, now)
            if slot.child is None and not slot.done and now >= slot.restart_at:
                self._start(slot)
        return not all(slot.done for slot in self._slots)

    def _ended(self, slot: _Slot, child: Child, now: float) -> None:
        self._children.mark_reaped(child)
        slot.child = None
        if child.exit_code == 0:
            slot.done = True
            return
        if child.exit_code is not None and child.exit_code in PERMANENT_EXIT_CODES:
            failure = child.failure(f"{child.describe_exit()} and will not be restarted")
            failure.exit_code = child.exit_code
            raise failure
        slot.failures = 0 if now - slot.started_at > STABLE_AFTER_S else slot.failures + 1
        delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**slot.failures)
        slot.restart_at = now + delay_s
        self._say(f"{slot.name} (pid {child.pid}) {child.describe_exit()}; restarting in {delay_s:.1f} s")

    @property
    def pids(self) -> list[int]:
        """Process ids of running processes."""
        return [slot.child.pid for slot in self._slots if slot.child is not None]

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop every process, and kill it after `timeout_s` (default: the stop timeout). Safe to call twice."""
        running = [slot.child for slot in self._slots if slot.child is not None]
        self._children.stop_all(running, timeout_s or self._stop_timeout_s)
        for slot in self._slots:
            slot.child, slot.done = None, True
