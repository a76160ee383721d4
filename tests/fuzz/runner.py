"""The process that looks after the others: it counts, and a crash of one of them is a finding like any other."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import Progress

MOST_FINDINGS = 10
"""A part is stopped after this many findings: most often they have one cause."""
REPORT_EVERY_S = 15.0
HANGS_AFTER_S = 180.0
"""An example takes milliseconds; preparing a part, with all compilation, takes a minute."""
READY_AFTER_S = 900.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Job:
    """A part in an environment."""

    name: str
    part: str
    environment: Mapping[str, str] = field(default_factory=dict)


JOBS = (
    Job("scan", "scan"),
    Job("scan-checked", "scan", {"NUMBA_BOUNDSCHECK": "1"}),
    Job("rows", "rows"),
    Job("rows-checked", "rows", {"NUMBA_BOUNDSCHECK": "1"}),
    Job("batches", "batches"),
    Job("batches-checked", "batches", {"NUMBA_BOUNDSCHECK": "1"}),
)
"""Jobs with bounds checks: compiled functions check each index, and raise IndexError."""


@dataclass
class Result:
    """Result of a job, and its resume position."""

    next_example: int
    values: int = 0
    batches: int = 0
    findings: list[str] = field(default_factory=list)
    is_ready: bool = True
    """False once a process has ended before its first example."""


class Runner:
    """Runs one job after its processes' deaths, too."""

    def __init__(self, job: Job, seed: int, first: int, say: Callable[[str], None]) -> None:
        self._job = job
        self._seed = seed
        self._say = say
        self.result = Result(first)

    def run(self, *, examples: int | None, seconds: float) -> Result:
        """Run a number of examples, or for some time."""
        end = None if examples is None else self.result.next_example + examples
        result = self.result
        while result.is_ready and result.next_example != end and seconds > 0 and len(result.findings) < MOST_FINDINGS:
            seconds -= self._run_one(end, seconds)
        self._say(f"{self._summary()}, done")
        return self.result

    def _run_one(self, end: int | None, seconds: float) -> float:
        """Run one process to its end, normal or not; returns the seconds spent on examples."""
        with tempfile.TemporaryDirectory(prefix="tally-fuzz-") as folder:
            path = Path(folder) / "progress"
            Progress.create(path, self.result.next_example)
            command = [sys.executable, "-m", "tests.fuzz.child", self._job.part, "--progress", str(path)]
            command += ["--seed", str(self._seed), "--first", str(self.result.next_example), "--seconds", str(seconds)]
            command += [] if end is None else ["--end", str(end)]
            with (
                (Path(folder) / "errors").open("w+") as errors,
                subprocess.Popen(
                    command,
                    env={**os.environ, **self._job.environment},
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                ) as child,
            ):
                reading = threading.Thread(target=self._read_findings, args=(child,), daemon=True)
                reading.start()
                ended_by = self._watch(child, path)
                reading.join()
                errors.seek(0)
                said = errors.read()[-2_000:]
            progress = Progress.read(path)
        self.result.values += progress.values
        self.result.batches += progress.batches
        if ended_by:
            self._found(progress.example, f"{ended_by}\n{said}".rstrip())
        if progress.seconds < 0:  # no example's fault, and the next process would end likewise
            self.result.is_ready = False
        else:
            self.result.next_example = progress.example + bool(ended_by)
        return max(progress.seconds, _POLL_S)

    def _watch(self, child: "subprocess.Popen[str]", path: Path) -> str:
        """Wait for a process; returns how it ended, empty when that was in order."""
        reported = moved = time.monotonic()
        seen = Progress.read(path)
        while child.poll() is None:
            time.sleep(_POLL_S)
            now, progress = time.monotonic(), Progress.read(path)
            if progress != seen:
                seen, moved = progress, now
            if now - moved > (READY_AFTER_S if progress.seconds < 0 else HANGS_AFTER_S):
                child.kill()
                child.wait()
                return "the example does not end"
            if now - reported > REPORT_EVERY_S:
                reported = now
                self._say(self._summary(progress))
        if child.returncode < 0:
            return f"the process ended by {signal.Signals(-child.returncode).name}"
        return f"the process ended with exit code {child.returncode}" if child.returncode else ""

    def _read_findings(self, child: "subprocess.Popen[str]") -> None:
        for line in child.stdout or ():
            example, message = json.loads(line)
            self._found(example, message)
            if len(self.result.findings) >= MOST_FINDINGS:
                child.kill()
                return

    def _found(self, example: int, message: str) -> None:
        where = " ".join(f"{name}={value}" for name, value in self._job.environment.items())
        again = f"python -m tests.fuzz --seed {self._seed} --only {self._job.name} --first {example} --examples 1"
        self.result.findings.append(f"FOUND by {self._job.name} {where}\n{message}\nreproduce: {again}")
        self._say(self.result.findings[-1])

    def _summary(self, running: Progress | None = None) -> str:
        result = self.result
        example = running.example if running else result.next_example
        values = result.values + (running.values if running else 0)
        batches = result.batches + (running.batches if running else 0)
        counted = f"{values:,} values, {batches:,} record batches, {len(result.findings)} findings"
        return f"{self._job.name}: example {example:,}, {counted}"
