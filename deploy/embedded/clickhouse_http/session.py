"""Sessions of the engine, and the pool of those that only ran SELECTs."""

import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from threading import Lock

import chdb

from deploy.embedded.clickhouse_http.errors import from_engine
from deploy.embedded.clickhouse_http.users import BACKUP_ROLE, StatementCaller, identifier

MAX_IDLE = 64
"""Maximum idle sessions. Beyond it the one that was used least recently is closed."""

_SETTINGS = {
    # Memory limit of one query, its formatted result included.
    "max_memory_usage": str(4 * 1024**3),
    # Threads that format a small result cost more than formatting it.
    "output_format_parallel_formatting": "0",
}


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Raise the engine's errors as ClickHouseError."""
    try:
        yield
    except (chdb.ChdbError, RuntimeError) as failed:
        raise from_engine(failed) from failed


class Session:
    """Engine session of one caller. Without a caller it is the front's own session, with all rights."""

    def __init__(
        self,
        address: str,
        caller: StatementCaller | None = None,
        bounds: Mapping[str, str] | None = None,
        *,
        backup: bool = False,
        mark: str = "",
    ) -> None:
        self.mark = mark or (caller.mark if caller else "front")
        """Mark of its queries. `kill` finds them by it, because an embedded engine chooses query ids itself."""
        self.is_killed = False
        self._connection = chdb.connect(address)
        own, marked = {**_SETTINGS, **(bounds or {})}, {"log_comment": self.mark}
        try:
            if caller is None:
                self._set({**own, **marked})
            elif caller.user.only_reads:
                self._set({**own, **marked, "readonly": "1"})
                self._set(caller.settings)  # the engine refuses any from here on
            else:
                self._set({**own, **caller.settings, **marked})
            if caller is not None:
                if caller.database:  # before the role: choosing a database needs no right, reading its tables does
                    self._run(f"USE {identifier(caller.database)}")
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


_Key = tuple[str, str | None, frozenset[tuple[str, str]], bool]


class SessionPool:
    """Pool of sessions for SELECTs, which leave nothing in a session; opening one costs as much as a small query.

    A session is used again only for the same user, database and settings.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = Lock()
        self._idle: OrderedDict[Session, _Key] = OrderedDict()
        self._running: dict[str, Session] = {}

    @contextmanager
    def session(self, caller: StatementCaller, bounds: Mapping[str, str] | None) -> Iterator[Session]:
        """Yield a session for one SELECT of a caller. After an error it is not used again."""
        key = caller.user.name, caller.database, frozenset(caller.settings.items()), bounds is not None
        session = self._take(key) or Session(self._address, caller, bounds, mark=str(uuid.uuid4()))
        with self._lock:
            self._running[caller.mark] = session
        is_reusable = False
        try:
            yield session
            is_reusable = True
        finally:
            self._give_back(key, caller.mark, session, is_reusable=is_reusable)

    def kill_mark(self, mark: str) -> str:
        """Return the mark of the session that runs a caller's query.

        The session is not used again, so that killing the query cannot hit the next one.
        """
        with self._lock:
            session = self._running.get(mark)
            if session is None:
                return mark
            session.is_killed = True
            return session.mark

    def close(self) -> None:
        """Close all idle sessions."""
        with self._lock:
            while self._idle:
                self._idle.popitem()[0].close()

    def _take(self, key: _Key) -> Session | None:
        with self._lock:
            found = next((session for session in reversed(self._idle) if self._idle[session] == key), None)
            if found is not None:
                del self._idle[found]
            return found

    def _give_back(self, key: _Key, mark: str, session: Session, *, is_reusable: bool) -> None:
        surplus: Session | None = session
        with self._lock:
            if self._running.get(mark) is session:
                del self._running[mark]
            if is_reusable and not session.is_killed:
                self._idle[session] = key
                surplus = self._idle.popitem(last=False)[0] if len(self._idle) > MAX_IDLE else None
        if surplus is not None:
            surplus.close()


def literal(value: str) -> str:
    """Quote a text for a statement."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
