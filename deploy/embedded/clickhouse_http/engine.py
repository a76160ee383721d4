"""The engine: every request gets a session of its own, so that settings cannot leak from one to the next.

A session costs about 0.3 ms. Its methods block; `app.py` calls them from threads.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import chdb

from deploy.embedded.clickhouse_http.errors import from_engine

_MEMORY = {"max_memory_usage": str(4 * 1024**3)}
"""What one query may hold, its formatted result included."""

RESULT_BOUNDS = {"max_result_bytes": str(256 * 1024 * 1024), "result_overflow_mode": "throw"}
"""For a result that cannot be streamed; the engine names the setting when it refuses one."""

_FAILED = (chdb.ChdbError, RuntimeError)


class Session:
    """One request's view of the engine."""

    def __init__(self, path: str, query_id: str, database: str | None, settings: Mapping[str, str]) -> None:
        self._connection = chdb.connect(path)
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

    def insert(self, sql: str, input_format: str) -> "Insert":
        """Begin an INSERT whose rows are appended as bytes of `input_format`."""
        try:
            return Insert(self._connection.send_insert(sql, input_format))
        except _FAILED as failed:
            raise from_engine(failed) from failed

    def close(self) -> None:
        """End the session. Safe to call twice."""
        self._connection.close()


class Insert:
    """A running INSERT. What is neither finished nor cancelled blocks its session."""

    def __init__(self, inserter: Any) -> None:
        self._inserter = inserter

    def append(self, chunk: bytes) -> None:
        """Hand over the next bytes; the engine parses and writes them as it goes."""
        try:
            self._inserter.append(chunk)
        except _FAILED as failed:
            raise from_engine(failed) from failed

    def finish(self) -> int:
        """Write what is left and return the number of rows the client sent."""
        try:
            return int(self._inserter.finish().rows_written)
        except _FAILED as failed:
            raise from_engine(failed) from failed

    def cancel(self) -> None:
        """Abort; blocks that were written before stay, as in ClickHouse."""
        self._inserter.cancel()


class Engine:
    """Opens sessions on one data directory and ends queries nobody waits for."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._keep_open = chdb.connect(path)  # the engine stays up between requests

    def session(self, query_id: str, database: str | None, settings: Mapping[str, str]) -> Session:
        """A fresh session. Raises ClickHouseError for an unknown setting or database."""
        return Session(self._path, query_id, database, settings)

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
