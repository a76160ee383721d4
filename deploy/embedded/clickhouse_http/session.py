"""Sessions of the engine. Settings must not leak between requests, so a request has a session for itself.

Opening one takes as long as a small query. A statement that reads changes nothing in its session, so a later request
may use the same. Methods block; `app.py` calls them from threads.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Lock

import chdb

from deploy.embedded.clickhouse_http.errors import ClickHouseError, from_engine
from deploy.embedded.clickhouse_http.users import BACKUP_ROLE, StatementCaller, identifier

_MEMORY = {"max_memory_usage": str(4 * 1024**3)}
"""Memory limit of one query, its formatted result included."""

MAX_IDLE = 32
"""Maximum idle sessions of reading requests."""

_Key = tuple[str, str | None, frozenset[tuple[str, str]], bool]
"""Everything that a session is opened with, besides its mark: role, database, settings, and whether it is bounded."""


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Raise the engine's errors as ClickHouseError."""
    try:
        yield
    except (chdb.ChdbError, RuntimeError) as failed:
        raise from_engine(failed) from failed


class Session:
    """Engine session of one request. Without a caller it is the front's own session, with all rights."""

    def __init__(
        self,
        address: str,
        caller: StatementCaller | None = None,
        bounds: Mapping[str, str] | None = None,
        *,
        backup: bool = False,
    ) -> None:
        self._connection = chdb.connect(address)
        # `kill` finds the query by its mark, because an embedded engine chooses query ids itself.
        own, marked = {**_MEMORY, **(bounds or {})}, {"log_comment": caller.mark if caller else "front"}
        try:
            if caller is None:
                self._set({**own, **marked})
            elif caller.user.only_reads:
                self._set({**own, **marked, "readonly": "1"})
                self._set(caller.settings)  # the engine refuses any from here on
            else:
                self._set({**own, **caller.settings, **marked})
            if caller is not None:
                self._use(caller)  # before the role: choosing a database needs no right, reading its tables does
                self._run(f"SET ROLE {caller.user.role}{f', {BACKUP_ROLE}' if backup else ''}")
        except BaseException:
            self.close()
            raise

    def _set(self, settings: Mapping[str, str]) -> None:
        if settings:
            self._run("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in settings.items()))

    def _run(self, sql: str) -> None:
        with _engine_errors():
            self._connection.query(sql)

    def _use(self, caller: StatementCaller) -> None:
        if caller.database:
            self._run(f"USE {identifier(caller.database)}")

    def pass_to(self, caller: StatementCaller) -> None:
        """Pass the session to another caller of the same user, database and settings. Raises ClickHouseError."""
        self._set({"log_comment": caller.mark})
        self._use(caller)  # it may have been dropped

    def query(self, sql: str, output_format: str, params: Mapping[str, str]) -> bytes:
        """Run a statement to its end and return its whole result."""
        with _engine_errors():
            return bytes(self._connection.query(sql, output_format, params=dict(params)).bytes())

    def write(self, sql: str) -> int:
        """Run a statement that writes, and return the number of rows written."""
        with _engine_errors():
            return int(self._connection.query(sql).rows_written())

    def stream(self, sql: str, output_format: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """Yield a SELECT's result block by block; closing the iterator cancels the query."""
        with _engine_errors(), closing(self._connection.send_query(sql, output_format, params=dict(params))) as result:
            for block in result:
                yield bytes(block.bytes())

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._connection.close()


class ReadingSessions:
    """Sessions of reading requests. Requests of the same user, database and settings share one, one after another."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._idle: list[tuple[_Key, Session]] = []
        self._lock = Lock()

    def take(self, caller: StatementCaller, bounds: Mapping[str, str] | None) -> Session:
        """Return an idle session, or a new one."""
        key = _key_of(caller, bounds)
        with self._lock:
            at = next((at for at, (other, _) in enumerate(self._idle) if other == key), None)
            idle = None if at is None else self._idle.pop(at)[1]
        if idle is not None:
            try:
                idle.pass_to(caller)
            except ClickHouseError:  # its settings forbid it; or the database is gone, and a new session says so
                idle.close()
            else:
                return idle
        return Session(self._address, caller, bounds)

    def put(self, caller: StatementCaller, bounds: Mapping[str, str] | None, session: Session) -> None:
        """Keep a session whose statement has ended without an error; past MAX_IDLE the oldest is closed."""
        with self._lock:
            self._idle.append((_key_of(caller, bounds), session))
            oldest = self._idle.pop(0)[1] if len(self._idle) > MAX_IDLE else None
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        """Close all idle sessions."""
        while self._idle:
            self._idle.pop()[1].close()


def _key_of(caller: StatementCaller, bounds: Mapping[str, str] | None) -> _Key:
    return caller.user.role, caller.database, frozenset(caller.settings.items()), bounds is not None


def literal(value: str) -> str:
    """Quote a text for a statement."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
