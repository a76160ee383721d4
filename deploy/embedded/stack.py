"""The embedded stack: Kafka, Valkey and the ClickHouse engine as one object that starts, watches and stops them."""

import fcntl
import os
import unicodedata
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import SecretStr

from deploy.embedded import jars
from deploy.embedded.clickhouse_http.users import User, analyst
from deploy.embedded.credentials import Credentials
from deploy.embedded.services import (
    ANALYST,
    CLICKHOUSE_USER,
    Service,
    clickhouse_service,
    kafka_service,
    valkey_service,
    wait_until,
)
from runtime.errors import TallyError
from runtime.ports import free_port
from runtime.process.children import Child, ChildFailed, Children
from runtime.settings import Settings, with_user, without_password
from runtime.stack_file import LOCK_NAME, Endpoints, Pids, StackFile, StackPhase, StackState
from schemas.tables import API_KEYS

ATTEMPTS = 3
_PORT_TAKEN = "address already in use"
"""The common part of what Kafka, Valkey and the ClickHouse front log for a taken port, but for capitals."""

_OWNER_ONLY = 0o077
"""The umask for everything that a stack makes: events are in its files, and passwords."""

_FOLDERS = ("kafka", "valkey", "clickhouse", "clickhouse-spool", "clickhouse-backups", "logs")


class Stack:
    """A running stack in one data directory. Use it as a context manager, from one thread.

    Whatever happens to this process, the guard in `children` stops the parts.
    """

    def __init__(self, settings: Settings, progress: jars.ReportProgress = lambda _line: None) -> None:
        self._settings = settings
        self._progress = progress
        self._data_dir = settings.data_dir.absolute()
        self._running: dict[str, tuple[Service, Child]] = {}
        self._lock_descriptor: int | None = None
        self._umask_before: int
        self.children: Children
        self.credentials: Credentials

    def __enter__(self) -> Self:
        _check_name(self._data_dir)
        self._umask_before = os.umask(_OWNER_ONLY)
        try:
            self._take_folder()
            self.children = Children()
        except BaseException:
            os.umask(self._umask_before)
            raise
        try:
            self.credentials = Credentials.of(self._data_dir)
            self._start_on_free_ports()
            self.note("running")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _take_folder(self) -> None:
        """Make the data directory, or take one over; what a version before this one made is closed to others."""
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            for folder in filter(Path.is_dir, (self._data_dir / name for name in _FOLDERS)):
                folder.chmod(0o700)
        except OSError as error:
            raise TallyError(f"cannot use {self._data_dir} as --data-dir: {error.strerror}") from error
        self._lock()

    def _lock(self) -> None:
        """One stack a data directory: the lock goes with the process, however it ends."""
        descriptor = os.open(self._data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise TallyError(f"{self._other()}, or choose another --data-dir") from None
        self._lock_descriptor = descriptor
        self.note("starting")

    def _other(self) -> str:
        """The error for a data directory that another process uses."""
        folder, other = self._settings.data_dir, StackPhase.of(self._data_dir)
        if other is None:
            return f"a stack already runs in {folder}: stop it"
        if other.state == "running":
            return f"a stack already runs in {folder} (pid {other.pid}): stop it"
        return f"a stack is {other.state} in {folder} (pid {other.pid}): wait until that is done"

    def note(self, doing: StackState) -> None:
        """Tell other commands how far this stack is."""
        if self._lock_descriptor is not None:
            StackPhase(os.getpid(), doing).note(self._lock_descriptor)

    def _start_on_free_ports(self) -> None:
        """Between the look at a port and its part's start another program may take it: then on other ports."""
        for _ in range(ATTEMPTS - 1):
            try:
                self._start_all()
            except ChildFailed as failed:
                if _PORT_TAKEN not in str(failed).lower():
                    raise
                self._stop_parts()
            else:
                return
        self._start_all()

    def _start_all(self) -> None:
        folder = jars.fetch(self._settings.cache_dir, self._progress)
        # Started together, waited for in order: the JVM takes longest and needs the least from us.
        for part in (
            kafka_service(self._data_dir, folder, free_port(), free_port()),
            valkey_service(self._data_dir, free_port(), self.credentials.valkey_password),
            clickhouse_service(self._data_dir, free_port(), self._clickhouse_users()),
        ):
            self._start(part)
        for part, child in self._running.values():
            self._wait(part, child)
        self.check()  # else what answers on a part's port may be another program

    def _start(self, part: Service) -> None:
        log_path = self.log_dir / f"{part.name}.log"
        self._running[part.name] = part, part.start(self.children, log_path)

    def _wait(self, part: Service, child: Child) -> None:
        if not wait_until(part.answers, lambda: child.exit_code is None, part.start_timeout_s):
            if child.exit_code is None:
                raise child.failure(f"did not answer within {part.start_timeout_s:.0f} s")
            raise child.failure(f"{child.describe_exit()} while starting")
        self._progress(f"{part.name} ready at {without_password(part.endpoint)}")

    def _clickhouse_users(self) -> list[User]:
        return [
            User(CLICKHOUSE_USER, self.credentials.clickhouse_password),
            analyst(ANALYST, self.credentials.analyst_password, self._settings.database, [API_KEYS]),
        ]

    @property
    def log_dir(self) -> Path:
        """Where each part's log lies, `<part>.log`."""
        return self._data_dir / "logs"

    def pid(self, name: str) -> int:
        """The process id of a part: kafka, redis or clickhouse."""
        return self._running[name][1].pid

    def check(self) -> None:
        """Raise ChildFailed when a part has died, with the end of its log."""
        for _part, child in self._running.values():
            if child.exit_code is not None:
                raise child.failure(child.describe_exit())

    def restart(self, name: str) -> None:
        """Start a part again that was stopped or has died, on the same port and data."""
        part, child = self._running[name]
        self.children.stop(child, part.stop_timeout_s)
        self._start(part)
        self._wait(part, self._running[name][1])

    def crash(self, name: str) -> None:
        """Kill a part as a power cut would, and start it again on the same port and data."""
        self._running[name][1].process.kill()
        self.restart(name)

    def stack_file(self) -> StackFile:
        """The stack file for other commands."""
        endpoints = {name: part.endpoint for name, (part, _child) in self._running.items()}
        endpoints["analyst"] = with_user(endpoints["clickhouse"], ANALYST, self.credentials.analyst_password)
        pids = {name: child.pid for name, (_part, child) in self._running.items()}
        return StackFile(endpoints=Endpoints(**endpoints), pids=Pids(up=os.getpid(), **pids))

    def settings(self) -> Settings:
        """The settings with the stack's endpoints in place, and its key unless they have one."""
        found = self.stack_file().endpoints
        key = self._settings.api_key.get_secret_value() or self.credentials.api_key
        update = {
            "api_key": SecretStr(key),
            "kafka": found.kafka,
            "redis": SecretStr(found.redis),
            "clickhouse": SecretStr(found.clickhouse),
        }
        return self._settings.model_copy(update=update)

    def stop(self) -> None:
        """Stop every part, last started first, and leave nothing behind. Safe to call twice."""
        if self._lock_descriptor is None:
            return
        self.note("stopping")
        self._stop_parts()
        self.children.close()
        os.ftruncate(self._lock_descriptor, 0)
        os.close(self._lock_descriptor)
        self._lock_descriptor = None
        os.umask(self._umask_before)

    def _stop_parts(self) -> None:
        for part, child in reversed(self._running.values()):
            self.children.stop(child, part.stop_timeout_s)
        self._running.clear()


def _check_name(folder: Path) -> None:
    """Raise TallyError for a folder whose name not every part could open."""
    name = str(folder)
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in name):
        raise TallyError(f"cannot use {name!r} as --data-dir: its name has control characters, or is not UTF-8")
