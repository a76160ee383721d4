"""The engine: every request gets a session of its own, so that settings cannot leak from one to the next.

A session costs about 0.3 ms. Its methods block; `app.py` calls them from threads.
"""

import json
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import chdb

from deploy.embedded.clickhouse_http.errors import from_engine
from deploy.embedded.clickhouse_http.statement import Statement, split_settings

_CONFIG = "?background_pool_size=1&background_merges_mutations_scheduling_policy=shortest_task_first"
"""One thread merges: on the few cores of an embedded engine more of them would keep inserts and queries waiting."""


def _connection(path: str) -> str:
    """What opens the engine on a data directory; backups go beside it, and nowhere else."""
    return f"{path}{_CONFIG}&backups.allowed_path={path}-backups"


_MEMORY = {"max_memory_usage": str(4 * 1024**3)}
"""What one query may hold, its formatted result included."""

RESULT_BOUNDS = {"max_result_bytes": str(256 * 1024 * 1024), "result_overflow_mode": "throw"}
"""For a result that cannot be streamed; the engine names the setting when it refuses one."""

_FAILED = (chdb.ChdbError, RuntimeError)


class Session:
    """One request's view of the engine."""

    def __init__(self, path: str, query_id: str, database: str | None, settings: Mapping[str, str]) -> None:
        self._connection = chdb.connect(_connection(path))
        try:
            # The comment is what `kill` finds the query by: an embedded engine chooses query ids itself.
            self._run(_set_statement({**_MEMORY, **settings, "log_comment": query_id}))
            if database:
                self._run(f"USE {_identifier(database)}")
        except BaseException:
            self.close()
            raise

    def _run(self, sql: str) -> None:
        try:
            self._connection.query(sql)
        except _FAILED as failed:
            raise from_engine(failed) from failed

    def query(self, sql: str, output_format: str, params: Mapping[str, str]) -> bytes:
        """Run a statement to its end and return its whole result."""
        try:
            return bytes(self._connection.query(sql, output_format, params=dict(params)).bytes())
        except _FAILED as failed:
            raise from_engine(failed) from failed

    def write(self, sql: str) -> int:
        """Run a statement that writes, and return how many rows it wrote."""
        try:
            return int(self._connection.query(sql).rows_written())
        except _FAILED as failed:
            raise from_engine(failed) from failed

    def stream(self, sql: str, output_format: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """Yield a SELECT's result block by block; closing the iterator cancels the query."""
        try:
            result = self._connection.send_query(sql, output_format, params=dict(params))
        except _FAILED as failed:
            raise from_engine(failed) from failed
        try:
            for block in result:
                yield bytes(block.bytes())
        except _FAILED as failed:
            raise from_engine(failed) from failed
        finally:
            result.close()

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._connection.close()


class Insert:
    """An INSERT whose rows gather in a file, which the engine then reads in one statement.

    The engine's own streaming insert says nothing of errors that come up while it writes: too many parts, a violated
    constraint. A statement does.
    """

    def __init__(self, open_session: Callable[[], Session], statement: Statement, spool: Path) -> None:
        self._open_session = open_session
        self._sql, self._settings = split_settings(statement.sql)
        self._format = statement.format
        self._spool = spool
        self._file: IO[bytes] | None = None

    def append(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._spooled().write(chunk)

    def _spooled(self) -> IO[bytes]:
        if self._file is None:
            self._file = NamedTemporaryFile(dir=self._spool, suffix=".rows")  # noqa: SIM115  (closed by cancel)
        return self._file

    def finish(self, last: bytes) -> int:
        """Take the last bytes, write the rows and return their number."""
        session = self._open_session()
        try:
            file = self._spooled()
            file.write(last)
            file.flush()
            source = f"FROM INFILE {_literal(file.name)} COMPRESSION 'none'"
            return session.write(f"{self._sql} {source} {self._settings} FORMAT {self._format}")
        finally:
            session.close()
            self.cancel()

    def cancel(self) -> None:
        """Forget what was appended. Safe after `finish`."""
        if self._file is not None:
            self._file.close()


class Engine:
    """Opens sessions on one data directory and ends queries nobody waits for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._spool = Path(f"{path}-spool")
        shutil.rmtree(self._spool, ignore_errors=True)  # what a crash left
        self._spool.mkdir(parents=True)
        self._keep_open = chdb.connect(_connection(path))  # the engine stays up between requests

    def session(self, query_id: str, database: str | None, settings: Mapping[str, str]) -> Session:
        """A fresh session. Raises ClickHouseError for an unknown setting or database."""
        return Session(self._path, query_id, database, settings)

    def insert(self, query_id: str, database: str | None, settings: Mapping[str, str], statement: Statement) -> Insert:
        """Begin an INSERT whose rows are appended as bytes of its format."""
        return Insert(partial(self.session, query_id, database, settings), statement, self._spool)

    def result(
        self,
        query_id: str,
        database: str | None,
        settings: Mapping[str, str],
        statement: Statement,
        params: Mapping[str, str],
    ) -> Generator[bytes, None, None]:
        """Run a statement in a session of its own and yield its result: block by block, or at once.

        All of it happens in the thread that asks for the first block, and closing the iterator ends it.
        """
        at_once = statement.kind == "at_once"
        session = self.session(query_id, database, {**RESULT_BOUNDS, **settings} if at_once else settings)
        try:
            if at_once:
                yield session.query(statement.sql, statement.format, params)
            else:
                yield from session.stream(statement.sql, statement.format, params)
        finally:
            session.close()

    def kill(self, query_id: str) -> None:
        """End a query whose client has gone; does nothing when it has ended by itself."""
        session = Session(self._path, f"kill {query_id}", None, {})
        try:
            session.query("KILL QUERY WHERE Settings['log_comment'] = {id:String} ASYNC", "Null", {"id": query_id})
        finally:
            session.close()

    def close(self) -> None:
        """Shut the engine down."""
        self._keep_open.close()


def _set_statement(settings: Mapping[str, str]) -> str:
    return "SET " + ", ".join(f"{name} = {_literal(value)}" for name, value in settings.items())


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def summary(written_rows: int) -> str:
    """The X-ClickHouse-Summary header of a finished statement."""
    return json.dumps({"read_rows": "0", "written_rows": str(written_rows), "result_rows": "0"})
