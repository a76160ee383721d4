"""Child processes that never outlive this process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import TallyError
from runtime.process import guard, launch

TAIL_BYTES = 64 * 1024
TAIL_LINES = 15
KILL_WAIT_S = 5.0
CLOSE_POLL_S = 0.02

_ISOLATED_PYTHON = (sys.executable, "-I", "-S")
"""Interpreter of the guard and the launcher: no site-packages, working directory or PYTHON* variables."""


def module_command(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter.

    Without -P a folder `schemas/` in the working directory would be imported instead of Tally's own.
    """
    return [sys.executable, "-P", "-m", name, *arguments]


class ChildFailed(TallyError):
    """Child process that ended or did not become ready. The message ends with the last lines of its log."""


@dataclass(frozen=True)
class Child:
    """Child process and its log."""

    name: str
    process: "subprocess.Popen[bytes]"
    log_path: Path | None

    @property
    def pid(self) -> int:
        """Process id of the command itself, not of a wrapper."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; None while the process runs, negative when a signal ended it."""
        return self.process.poll()

    def failure(self, what: str) -> ChildFailed:
        """Return the error that says `what` about this child, with the last lines of its log."""
        if self.log_path is None:
            return ChildFailed(f"{self.name} {what}")
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, self.log_path.stat().st_size - TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        except OSError:
            lines = []
        tail = "".join(f"\n    {line}" for line in lines)
        return ChildFailed(f"{self.name} {what}; the end of {self.log_path}:{tail}")

    def describe_exit(self) -> str:
        """Describe how the process ended."""
        code = self.exit_code
        if code is None:
            return "runs"
        return f"was ended by signal {-code}" if code < 0 else f"exited with {code}"


class Children:
    """Child processes under one guard. Not thread-safe."""

    def __init__(self) -> None:
        self._unreaped: dict[int, Child] = {}
        reading, self._writing = os.pipe()
        self._guard = subprocess.Popen(
            [*_ISOLATED_PYTHON, guard.__file__],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(reading)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        log_path: Path | None = None,
        environment: Mapping[str, str] | None = None,
        working_dir: Path | None = None,
        input_path: Path | None = None,
    ) -> Child:
        """Start a command with `input_path`, or nothing, as its standard input.

        Its output goes to `log_path`, or with None to this process's own outputs. It gets a session of its own, so
        Ctrl-C reaches only this process, which then stops its children in order.
        """
        log = None
        if log_path is not None:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            log = log_path.open("ab")
        given = (input_path or Path(os.devnull)).open("rb")
        try:
            process = subprocess.Popen(
                [*_ISOLATED_PYTHON, launch.__file__, str(self._writing), *command],
                stdin=given,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                cwd=working_dir,
                pass_fds=(self._writing,),
                start_new_session=True,
            )
        finally:
            given.close()
            if log is not None:
                log.close()
        child = self._unreaped[process.pid] = Child(name, process, log_path)
        return child

    def stop(self, child: Child, timeout_s: float) -> int:
        """Stop a child by SIGTERM, and by SIGKILL after `timeout_s`. Return its exit code."""
        return self.stop_all([child], timeout_s)[0]

    def stop_all(self, children: Sequence[Child], timeout_s: float) -> list[int]:
        """Stop several children at once like `stop`. Return their exit codes."""
        for child in children:
            if child.exit_code is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait(KILL_WAIT_S)
            self.mark_reaped(child)
        return [child.process.returncode for child in children]

    def mark_reaped(self, child: Child) -> None:
        """Tell the guard that a child has ended, so that it never signals another process with the same id."""
        os.write(self._writing, b"-%d\n" % child.pid)
        self._unreaped.pop(child.pid, None)

    def close(self) -> None:
        """Release the guard, which stops the remaining children, and wait for it."""
        os.close(self._writing)
        deadline = time.monotonic() + 2 * guard.STOP_S + KILL_WAIT_S
        while self._guard.poll() is None and time.monotonic() < deadline:
            for child in self._unreaped.values():
                child.process.poll()  # reaps it: the guard waits for zombies, too
            time.sleep(CLOSE_POLL_S)
        self._guard.wait(0)
