"""`stack.json`: endpoints and processes of the stack that runs in a data directory."""

import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from runtime.private_file import write_private

FILE_NAME = "stack.json"
LOCK_NAME = "lock"
"""Lock file of the process that runs a stack; it holds the stack's state."""

StackState = Literal["starting", "running", "stopping"]
_NOTE_BYTES = 32


class Endpoints(BaseModel):
    """URLs and addresses of the services, passwords included."""

    kafka: str
    redis: str
    clickhouse: str
    analyst: str = ""
    """ClickHouse URL of the read-only user."""
    api: str = ""
    console: str = ""


class Pids(BaseModel):
    """Process ids of the services; `up` is the process that started them."""

    up: int
    kafka: int
    redis: int
    clickhouse: int
    api: int = 0
    console: int = 0
    workers: list[int] = []


class StackFile(BaseModel):
    """File that `tally up` writes for other commands. Only its owner may read it: it holds the key and passwords."""

    model_config = ConfigDict(extra="ignore")

    endpoints: Endpoints
    pids: Pids
    workers: int = 0
    """Wanted number of workers; `pids.workers` are the running ones."""
    key: str = ""
    settings: dict[str, str] = {}
    """Other settings that the stack was started with, by name."""

    def as_settings(self) -> dict[str, Any]:
        """Return the settings that this stack provides."""
        return {
            **self.settings,
            **self.endpoints.model_dump(exclude={"api", "console"}),
            **({"api_key": self.key} if self.key else {}),
        }

    def write(self, data_dir: Path) -> None:
        """Replace the file atomically."""
        write_private(data_dir / FILE_NAME, self.model_dump_json(indent=2))

    @classmethod
    def of_running_stack(cls, data_dir: Path) -> Self | None:
        """Return the stack that runs in `data_dir`; None without a file, or when its process has ended."""
        try:
            found = cls.model_validate_json((data_dir / FILE_NAME).read_text())
        except (OSError, ValidationError):
            return None
        return found if process_exists(found.pids.up) else None

    @staticmethod
    def remove(data_dir: Path) -> None:
        """Delete the file, if there is one."""
        (data_dir / FILE_NAME).unlink(missing_ok=True)


class StackPhase(NamedTuple):
    """State of the stack of a data directory, and the process that runs it."""

    pid: int
    state: StackState

    @classmethod
    def of(cls, data_dir: Path) -> Self | None:
        """Read the state of the stack in `data_dir`; None when no stack runs there."""
        try:
            pid, state = (data_dir / LOCK_NAME).read_text().split()
            found = cls(int(pid), cast(StackState, state))
        except (OSError, ValueError):
            return None
        return found if process_exists(found.pid) else None

    def note(self, lock_descriptor: int) -> None:
        """Write the state into the lock file, atomically."""
        os.pwrite(lock_descriptor, f"{self.pid} {self.state}".ljust(_NOTE_BYTES).encode(), 0)


def process_exists(pid: int) -> bool:
    """Return whether a process with this id runs (or waits to be reaped)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
