"""`stack.json`: how commands find the stack that runs in a data directory."""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.private_file import write_private

FILE_NAME = "stack.json"
LOCK_NAME = "lock"
"""Held by the process that runs a stack, which writes into it how far it is."""

StackState = Literal["starting", "running", "stopping"]
_NOTE_BYTES = 32


class Endpoints(BaseModel):
    """Where the parts answer, with the passwords that they ask for."""

    kafka: str
    redis: str
    clickhouse: str
    analyst: str = ""
    """ClickHouse as a user who only reads."""
    api: str = ""


class Pids(BaseModel):
    """The parts' processes; `up` is the one that started them."""

    up: int
    kafka: int
    redis: int
    clickhouse: int
    api: int = 0
    workers: list[int] = []


class StackFile(BaseModel):
    """File that `tally up` writes for other commands. Readable by its owner only: it has the key and passwords."""

    model_config = ConfigDict(extra="ignore")

    endpoints: Endpoints
    pids: Pids
    workers: int = 0
    """How many there should be; `pids.workers` are those that run."""
    key: str = ""
    settings: dict[str, str] = {}
    """Further settings that the stack was started with, by name."""

    def as_settings(self) -> dict[str, Any]:
        """The settings that this stack offers."""
        return {
            **self.settings,
            **self.endpoints.model_dump(exclude={"api", "analyst"}),
            **({"api_key": self.key} if self.key else {}),
        }

    def write(self, data_dir: Path) -> None:
        """Replace the file in one step, so that no reader sees half of it."""
        write_private(data_dir / FILE_NAME, self.model_dump_json(indent=2))

    @classmethod
    def of_running_stack(cls, data_dir: Path) -> Self | None:
        """The stack that runs in `data_dir`, or None: no file, or its process has gone."""
        try:
            found = cls.model_validate_json((data_dir / FILE_NAME).read_text())
        except (OSError, ValidationError):
            return None
        return found if process_exists(found.pids.up) else None

    @staticmethod
    def remove(data_dir: Path) -> None:
        """Forget the stack."""
        (data_dir / FILE_NAME).unlink(missing_ok=True)


class StackPhase(NamedTuple):
    """How far the stack of a data directory is, and the process that runs it."""

    pid: int
    state: StackState

    @classmethod
    def of(cls, data_dir: Path) -> Self | None:
        """How far the stack in `data_dir` is; None when none is there."""
        try:
            pid, state = (data_dir / LOCK_NAME).read_text().split()
            found = cls(int(pid), cast(StackState, state))
        except (OSError, ValueError):
            return None
        return found if process_exists(found.pid) else None

    def note(self, lock_descriptor: int) -> None:
        """Write it where `of` finds it, in one step."""
        os.pwrite(lock_descriptor, f"{self.pid} {self.state}".ljust(_NOTE_BYTES).encode(), 0)


def process_exists(pid: int) -> bool:
    """Whether a process with this id runs (or waits to be reaped)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
