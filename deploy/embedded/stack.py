"""Embedded stack: starts, watches and stops Kafka, Valkey and the ClickHouse engine."""

import fcntl
import os
import unicodedata
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from deploy.embedded import jars
from deploy.embedded.clickhouse_http.users import User, analyst
from deploy.embedded.credentials import Credentials
from deploy.embedded.port_file import PortFile
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
from runtime.process.children import Child, ChildFailed, Children
from runtime.settings import Settings, with_user
from runtime.stack_file import LOCK_NAME, Endpoints, Pids, StackFile, StackPhase, StackState
from schemas.tables import API_KEYS

ATTEMPTS = 3
_PORT_TAKEN = "address already in use"
"""Common text, in lower case, that Kafka, Valkey and the ClickHouse front log for a port in use."""

_OWNER_ONLY = 0o077
"""Umask of all files of a stack, which hold events and passwords."""

_FOLDERS = ("kafka", "valkey", "clickhouse", "clickhouse-spool", "clickhouse-backups", "logs")


class Stack:
    """Running stack in one data directory. Use it as a context manager, from one thread.

    The guard in `children` stops the services even if this process is killed.
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
        self.ports: PortFile

    def __enter__(self) -> Self:
        _check_name(self._data_dir)
        self._umask_before = os.umask(_OWNER_ONLY)
        try:
            self._prepare_data_dir()
            self.children = Children()
        except BaseException:
            os.umask(self._umask_before)
            raise
        try:
            self.credentials = Credentials.of(self._data_dir)
            self.ports = PortFile.of(self._data_dir, self._progress)
            self._start_on_free_ports()
            self.note("running")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _prepare_data_dir(self) -> None:
        """Create or reuse the data directory, and restrict existing folders to their owner."""
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            for folder in filter(Path.is_dir, (self._data_dir / name for name in _FOLDERS)):
                folder.chmod(0o700)
        except OSError as error:
            raise TallyError(f"cannot use {self._data_dir} as --data-dir: {error.strerror}") from error
        self._lock()

    def _lock(self) -> None:
        """Lock the data directory for this stack; the lock ends with the process."""
        descriptor = os.open(self._data_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise TallyError(f"{self._other()}, or choose another --data-dir") from None
        self._lock_descriptor = descriptor
        self.note("starting")

    def _other(self) -> str:
        """Return the error for a data directory that another process uses."""
        folder, other = self._settings.data_dir, StackPhase.of(self._data_dir)
        if other is None:
            return f"a stack already runs in {folder}: stop it"
        if other.state == "running":
            return f"a stack already runs in {folder} (pid {other.pid}): stop it"
        return f"a stack is {other.state} in {folder} (pid {other.pid}): wait until that is done"

    def note(self, doing: StackState) -> None:
        """Publish the state of this stack for other commands."""
        if self._lock_descriptor is not None:
            StackPhase(os.getpid(), doing).note(self._lock_descriptor)

    def _start_on_free_ports(self) -> None:
        """Start the services; on other ports when a program has taken one since it was found free.

        A port that was taken is then found taken, and another one is kept for the data directory.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                self._start_all()
            except ChildFailed as failed:
                if _PORT_TAKEN not in str(failed).lower():
                    raise
                self._stop_services()
            else:
                return
        self._start_all()

    def _start_all(self) -> None:
        folder, choose = jars.fetch(self._settings.cache_dir, self._progress), self.ports.choose
        # Started together, awaited in order: the JVM takes longest.
        for part in (
            kafka_service(self._data_dir, folder, choose("kafka"), choose("kafka controller")),
            valkey_service(self._data_dir, choose("redis"), self.credentials.valkey_password),
            clickhouse_service(self._data_dir, choose("clickhouse"), self._clickhouse_users()),
        ):
            self._start(part)
        for part, child in self._running.values():
            self._wait(part, child)
        self.check()  # otherwise another program may answer on a service's port

    def _start(self, part: Service) -> None:
        log_path = self.log_dir / f"{part.name}.log"
        self._running[part.name] = part, part.start(self.children, log_path)

    def _wait(self, part: Service, child: Child) -> None:
        if not wait_until(part.answers, lambda: child.exit_code is None, part.start_timeout_s):
            if child.exit_code is None:
                raise child.failure(f"did not answer within {part.start_timeout_s:.0f} s")
            raise child.failure(f"{child.describe_exit()} while starting")
        self._progress(f"{part.name} is ready")

    def _clickhouse_users(self) -> list[User]:
        return [
            User(CLICKHOUSE_USER, self.credentials.clickhouse_password),
            analyst(ANALYST, self.credentials.analyst_password, self._settings.database, [API_KEYS]),
        ]

    @property
    def log_dir(self) -> Path:
        """Folder of the services' logs, `<name>.log`."""
        return self._data_dir / "logs"

    def pid(self, name: str) -> int:
        """Return the process id of a service: kafka, redis or clickhouse."""
        return self._running[name][1].pid

    def check(self) -> None:
        """Raise ChildFailed, with the end of its log, when a service has ended."""
        for _part, child in self._running.values():
            if child.exit_code is not None:
                raise child.failure(child.describe_exit())

    def restart(self, name: str) -> None:
        """Restart a service on the same port and data."""
        part, child = self._running[name]
        self.children.stop(child, part.stop_timeout_s)
        self._start(part)
        self._wait(part, self._running[name][1])

    def stack_file(self) -> StackFile:
        """Return the stack file for other commands."""
        endpoints = {name: part.endpoint for name, (part, _child) in self._running.items()}
        endpoints["analyst"] = with_user(endpoints["clickhouse"], ANALYST, self.credentials.analyst_password)
        pids = {name: child.pid for name, (_part, child) in self._running.items()}
        return StackFile(endpoints=Endpoints(**endpoints), pids=Pids(up=os.getpid(), **pids))

    def settings(self) -> Settings:
        """Return the settings with the stack's endpoints, and with its API key unless they have one."""
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
        """Stop every service, last started first, and release the data directory. Safe to call twice."""
        if self._lock_descriptor is None:
            return
        self.note("stopping")
        self._stop_services()
        self.children.close()
        os.ftruncate(self._lock_descriptor, 0)
        os.close(self._lock_descriptor)
        self._lock_descriptor = None
        os.umask(self._umask_before)

    def _stop_services(self) -> None:
        for part, child in reversed(self._running.values()):
            self.children.stop(child, part.stop_timeout_s)
        self._running.clear()


def _check_name(folder: Path) -> None:
    """Raise TallyError for a folder whose name some service cannot open."""
    name = str(folder)
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in name):
        raise TallyError(f"cannot use {name!r} as --data-dir: its name has control characters, or is not UTF-8")
