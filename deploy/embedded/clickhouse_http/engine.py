"""Engine with a session for each request, so that settings cannot leak between requests. SELECTs share sessions.

Its methods block; `app.py` calls them from threads.
"""

import json
import re
import shutil
from base64 import b64encode
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile

import chdb

from deploy.embedded.clickhouse_http.errors import ErrorCode, error
from deploy.embedded.clickhouse_http.pipe import piped
from deploy.embedded.clickhouse_http.policy import INFILE, StatementNotAllowed, StatementPolicy
from deploy.embedded.clickhouse_http.priority import lower_merges
from deploy.embedded.clickhouse_http.session import Session, SessionPool, literal
from deploy.embedded.clickhouse_http.statement import Statement, is_select, split_settings
from deploy.embedded.clickhouse_http.users import StatementCaller, User, engine_config, engine_users
from runtime.private_file import write_private

_MERGES = "background_pool_size=1&background_merges_mutations_scheduling_policy=shortest_task_first"
"""A single merge thread: on the few cores of an embedded engine more threads would delay inserts and queries."""

_PLAIN_NAME = re.compile(r"[\w.-]+", re.ASCII)

RESULT_BOUNDS = {"max_result_bytes": str(256 * 1024 * 1024), "result_overflow_mode": "throw"}
"""Bounds of a result that cannot be streamed; the engine's error names max_result_bytes."""

SMALL_BYTES = 4 * 1024 * 1024
"""Size of rows up to which an insert runs in one thread: further threads cost more than they save."""
_ONE_THREAD = {"max_threads": "1"}

CHECKED_STATEMENTS = 1_024
CHECKED_STATEMENT_CHARS = 8_192
"""Cached checks, and the longest cached statement: a check costs as much as a small query."""


class Insert:
    """INSERT that collects its rows in a file, which the engine then reads in one statement.

    The engine's own streaming insert does not report errors of the write, such as too many parts or a violated
    constraint.
    """

    def __init__(self, address: str, caller: StatementCaller, statement: Statement, spool: Path) -> None:
        self._address = address
        self._caller = caller
        self._statement = statement
        self._file = TemporaryFile(dir=spool)  # noqa: SIM115  (closed by cancel)

    def append(self, chunk: bytes) -> None:
        """Append bytes."""
        self._file.write(chunk)

    def finish(self, last: bytes) -> int:
        """Append the last bytes, insert the rows and return their number."""
        self._file.write(last)
        session = Session(self._address, self._caller, _ONE_THREAD if self._file.tell() <= SMALL_BYTES else None)
        try:
            self._file.seek(0)
            # By its descriptor, because the engine treats braces and stars in a path as a pattern.
            return session.write(_from_file(self._statement, f"/dev/fd/{self._file.fileno()}"))
        finally:
            session.close()
            self.cancel()

    def cancel(self) -> None:
        """Discard appended bytes. Safe after `finish`."""
        self._file.close()


def _from_file(insert: Statement, path: str) -> str:
    """Return the INSERT that reads its rows from a file."""
    head, settings = split_settings(insert.sql)
    return f"{head} FROM INFILE {literal(path)} COMPRESSION 'none' {settings} FORMAT {insert.format}"


class Engine:
    """Engine on one data directory: opens sessions, and kills queries of disconnected clients."""

    def __init__(self, name: str, users: Sequence[User]) -> None:
        """Open the data directory `name` in the working directory, with its other folders beside it.

        Raises ClickHouseError for a name that would need quoting in the engine's address.
        """
        if not _PLAIN_NAME.fullmatch(name):
            raise error(ErrorCode.BAD_ARGUMENTS, f"The last part of --path is {name!r}: it must be a plain name")
        self._address = f"{name}?{_MERGES}&config-file={_write_config(name, users)}"
        self._spool = Path(f"{name}-spool")
        shutil.rmtree(self._spool, ignore_errors=True)  # files of a crashed process
        self._spool.mkdir(parents=True)
        self._sessions = SessionPool(self._address)
        self._keep_open = chdb.connect(self._address)  # the engine stays up between requests
        lower_merges(self._address)
        self._policy = StatementPolicy(self._ask("SELECT name FROM system.table_functions", {}).decode().split())
        self._check_short = lru_cache(CHECKED_STATEMENTS)(self._check)

    def insert(self, caller: StatementCaller, statement: Statement) -> Insert:
        """Check an INSERT and begin it: its rows are appended as bytes of its format."""
        self._needs_backup(caller, statement)
        return Insert(self._address, caller, statement, self._spool)

    def _needs_backup(self, caller: StatementCaller, statement: Statement) -> bool:
        """Return whether a statement needs the right to backup files.

        Raises ClickHouseError for a statement that cannot be parsed, or that the caller's user may not run.
        """
        streamed = statement.kind == "stream_in"
        sql = _from_file(statement, INFILE) if streamed else statement.sql
        check = self._check_short if len(sql) <= CHECKED_STATEMENT_CHARS else self._check
        return check(sql, caller.user, streamed=streamed)

    def _check(self, sql: str, user: User, *, streamed: bool) -> bool:
        encoded = b64encode(sql.encode()).decode()  # the engine unescapes backslashes in a parameter
        canonical = self._ask("SELECT formatQuerySingleLine(base64Decode({sql:String}))", {"sql": encoded})
        try:
            return self._policy.check(canonical.decode(), user, streamed=streamed)
        except StatementNotAllowed as refused:
            raise error(ErrorCode.ACCESS_DENIED, f"{user.name}: Not allowed here: {refused}") from None

    def _ask(self, sql: str, params: Mapping[str, str]) -> bytes:
        """Run a statement of the front itself."""
        session = Session(self._address)
        try:
            return session.query(sql, "TSVRaw", params)
        finally:
            session.close()

    def result(
        self, caller: StatementCaller, statement: Statement, params: Mapping[str, str]
    ) -> Generator[bytes, None, None]:
        """Run a statement in its own session and yield its result, block by block or at once.

        Everything runs in the thread that requests the first block. Closing the iterator ends the statement.
        """
        backup = self._needs_backup(caller, statement)
        with self._session(caller, statement, backup=backup) as session:
            if statement.kind == "at_once":
                yield session.query(statement.sql, statement.format, params)
            elif statement.kind == "pipe_out":
                yield from piped(lambda path: session.query(statement.into_file(path), statement.format, params))
            else:
                yield from session.stream(statement.sql, statement.format, params)

    def _session(
        self, caller: StatementCaller, statement: Statement, *, backup: bool
    ) -> AbstractContextManager[Session]:
        bounds = RESULT_BOUNDS if statement.kind == "at_once" else None
        if is_select(statement.sql):
            return self._sessions.session(caller, bounds)
        return closing(Session(self._address, caller, bounds, backup=backup))

    def kill(self, mark: str) -> None:
        """Kill the query of a disconnected client, if it still runs."""
        where = {"mark": self._sessions.kill_mark(mark)}
        self._ask("KILL QUERY WHERE Settings['log_comment'] = {mark:String} ASYNC", where)

    def close(self) -> None:
        """Shut the engine down."""
        self._sessions.close()
        self._keep_open.close()


def _write_config(name: str, users: Sequence[User]) -> str:
    """Write the engine's configuration, and return its file name."""
    folder = Path(f"{name}-config")
    folder.mkdir(exist_ok=True)
    users_file = folder / "users.xml"
    write_private(users_file, engine_users(users))
    backups = Path(f"{name}-backups").absolute()
    write_private(folder / "config.xml", engine_config(backups, str(users_file)))
    return f"{folder}/config.xml"


def summary(written_rows: int) -> str:
    """Return the X-ClickHouse-Summary header of a finished statement."""
    return json.dumps({"read_rows": "0", "written_rows": str(written_rows), "result_rows": "0"})
