"""Compared systems: each reads the same topic into its own tables, and reports its progress.

`events` is the number of records to read, from the beginning of the topic; `done` counts those whose results can be
queried. `stop` returns a remark on the result.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.environments import Environment
from consumers.supervised import supervised_workers
from deploy.embedded.stack import Stack
from readers.audit import audit
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, OUTCOMES

_ROWS = f"SELECT (SELECT count() FROM {INTERACTIONS}) + (SELECT count() FROM {OUTCOMES})"


class Tally:
    """Tally's workers as `tally consume` runs them, with all features."""

    def __init__(
        self,
        stack: Stack,
        settings: Settings,
        database: ClickHouse,
        workers: int,
        events: int,
        *,
        rows_before: int = 0,
    ) -> None:
        self.name = f"tally, {workers} worker{'s' if workers > 1 else ''}"
        self.events = events
        self._settings, self._database, self._rows_before = settings, database, rows_before
        self._log_dir = settings.data_dir / "bench-logs" / settings.group
        self._supervisor = supervised_workers(
            stack.children,
            settings,
            workers=workers,
            instance_prefix=settings.group,
            log_dir=self._log_dir,
            say=print,
        )

    def start(self) -> None:
        self._supervisor.start()

    async def done(self) -> int:
        self._supervisor.poll()
        ((rows,),) = await self._database.rows(_ROWS)
        return int(rows) - self._rows_before

    @property
    def worker_pids(self) -> list[int]:
        return self._supervisor.pids

    async def stop(self) -> str:
        self._supervisor.stop()
        parts = [each async for each in audit(self._settings, self._database)]
        total = {
            name: sum(getattr(each, name) for each in parts)
            for name in ("accepted", "stored", "duplicates", "rejected", "difference")
        }
        said = [
            f"\n    {line.split(' tally.worker ')[-1]}"
            for path in sorted(self._log_dir.iterdir())
            for line in path.read_text().splitlines()
            if " stages: " in line or " stopped: " in line
        ]
        balances = "balances" if all(each.balances for each in parts) else "DOES NOT BALANCE"
        return f"{total}, audit {balances}{''.join(said)}"


class Peer:
    """Other system: a script in its own process and environment.

    It reads its options from standard input as one JSON object, and prints its progress as JSON lines:
    `{"done": 123, "pids": [...]}`.
    """

    def __init__(self, name: str, environment: Environment, events: int, options: dict[str, object]) -> None:
        self.name, self.events = name, events
        self._command = [str(environment.python), str(environment.script)]
        self._options = json.dumps({**environment.options, **options, "events": events}).encode()
        self._log_path = Path(tempfile.mkstemp(suffix=".jsonl")[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._done, self._pids = 0, list[int]()

    def start(self) -> None:
        self._said = self._log_path.open("w+")
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=self._said, stderr=sys.stderr)
        assert self._process.stdin  # noqa: S101  (a pipe was asked for)
        with self._process.stdin as given:
            given.write(self._options)

    async def done(self) -> int:
        lines = self._log_path.read_text().splitlines(keepends=True)
        if whole := [line for line in lines if line.endswith("\n")]:
            said = json.loads(whole[-1])
            self._done, self._pids = said["done"], said.get("pids", [])
        if self._process and self._process.poll() not in (None, 0):
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}")
        return self._done

    @property
    def worker_pids(self) -> list[int]:
        return [self._process.pid, *self._pids] if self._process else []

    async def stop(self) -> str:
        if self._process is None:
            return ""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._said.close()
        self._log_path.unlink()
        return ""


System = Tally | Peer
