"""The command line: commands in this process, or as processes where a test is about processes, and a `tally up`."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from runtime.settings import Settings
from tally.cli import main

TALLY = str(Path(sys.executable).parent / "tally")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}


class CommandResult(NamedTuple):
    """Exit code and output of a command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process with these settings."""
    return CLEAN | settings.as_environment()


def command(*arguments: str, given: str = "", env: Mapping[str, str] = CLEAN) -> CommandResult:
    """Run a command in this process, without the second that a new interpreter takes to import everything.

    From a coroutine, call it in a thread: a command has an event loop of its own.
    """
    out, err = io.StringIO(), io.StringIO()
    with ExitStack() as during:
        during.enter_context(patch.dict(os.environ, env, clear=True))
        during.enter_context(patch.object(sys, "argv", ["tally", *arguments]))
        during.enter_context(_standard_input(given))
        during.enter_context(redirect_stdout(out))
        during.enter_context(redirect_stderr(err))
        try:
            main()
        except SystemExit as ended:
            assert isinstance(ended.code, int | None), ended.code
            return CommandResult(ended.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError("a command exits")


@contextmanager
def _standard_input(text: str) -> Iterator[None]:
    """Put text in place of descriptor 0, which is where `emit -` reads."""
    before = os.dup(0)
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        os.dup2(file.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)


def names_in(folder: Path) -> list[str]:
    """The files of a folder that are not empty."""
    return [each.name for each in folder.iterdir() if each.stat().st_size]


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and was not reaped by its new parent does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Running:
    """A `tally up` in a folder of its own."""

    def __init__(self, data_dir: Path, *arguments: str, working_dir: Path | None = None) -> None:
        self.data_dir = data_dir
        self._working_dir = working_dir
        self.log = data_dir.parent / f"{data_dir.name}.up.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [TALLY, "up", "--data-dir", str(data_dir), *arguments],
                stdout=log,
                stderr=log,
                env=CLEAN,
                cwd=working_dir,
            )

    def tally(self, *arguments: str, given: str = "") -> CommandResult:
        """Run another command against it, in this process."""
        return command(*arguments, "--data-dir", str(self.data_dir), given=given)

    def as_process(self, *arguments: str, given: str = "") -> CommandResult:
        """Run another command against it as a process of its own, in the working directory of `tally up`."""
        done = subprocess.run(
            [TALLY, *arguments, "--data-dir", str(self.data_dir)],
            check=False,
            input=given,
            capture_output=True,
            text=True,
            env=CLEAN,
            cwd=self._working_dir,
            timeout=180,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, given: str = "") -> Any:
        """Run a command that must succeed, and return its JSON answer."""
        done = self.tally(*arguments, "--json", given=given)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self) -> Any:
        """The answer of `tally status`, ready or not."""
        return json.loads(self.tally("status", "--json").stdout)

    def key(self) -> str:
        """The API key."""
        return str(self.json("status", "--show-secrets")["key"])

    def is_ready(self) -> bool:
        """Whether `tally status` says that it is ready; fails the test when it has ended."""
        assert self.process.poll() is None, self.output()
        done = self.tally("status", "--json")
        return done.returncode == 0 and json.loads(done.stdout)["ready"]

    def output(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text()

    def pids(self) -> list[int]:
        """The processes that it has started."""
        pids = self.json("status")["pids"]
        return [*pids.pop("workers"), *pids.values()]
