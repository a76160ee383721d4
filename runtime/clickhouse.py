"""Connections to ClickHouse. The client's calls block, so they run in a few threads of their own."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import clickhouse_connect
import pyarrow as pa
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from runtime.errors import Fatal, SettingsError, TallyError, Unavailable
from runtime.settings import Settings

Result = TypeVar("Result")

AUTHENTICATION_FAILED = (192, 193, 194, 516)
MISSING = {60: "UNKNOWN_TABLE", 81: "UNKNOWN_DATABASE"}
NOT_NOW = {
    75: "CANNOT_WRITE_TO_FILE_DESCRIPTOR",
    159: "TIMEOUT_EXCEEDED",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    243: "NOT_ENOUGH_SPACE",
    252: "TOO_MANY_PARTS",
    279: "ALL_CONNECTION_TRIES_FAILED",
    285: "TOO_FEW_LIVE_REPLICAS",
    319: "UNKNOWN_STATUS_OF_INSERT",
    394: "QUERY_WAS_CANCELLED",
    425: "SYSTEM_ERROR",
    999: "KEEPER_EXCEPTION",
}
"""Codes that say "not now". Every other code is a fault that waiting cannot mend."""


class StatementRefused(TallyError):
    """ClickHouse refused a statement for good; `code` is its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


_INSERT_SETTINGS = {
    # A client-side asynchronous insert would be acknowledged before it is durable.
    "async_insert": 0,
    # Rows of one batch have distinct ids; sorting them out once more at insert costs 1.3 us an event.
    "optimize_on_insert": 0,
}


def error_code(error: BaseException) -> int:
    """ClickHouse's code of an error, 0 when it has none: the network's, or that of something in between."""
    return getattr(error, "code", None) or 0


class ClickHouse:
    """Queries and inserts of one process."""

    def __init__(self, client: Client, threads: ThreadPoolExecutor) -> None:
        self._client = client
        self._threads = threads

    async def rows(self, sql: str, parameters: Mapping[str, Any] | None = None) -> Sequence[Sequence[Any]]:
        """Run a query with bound parameters and return its rows."""
        return await self._call(lambda: self._client.query(sql, parameters=dict(parameters or {})).result_rows)

    async def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that answers nothing."""
        await self._call(lambda: self._client.command(sql, parameters=dict(parameters or {})))

    async def insert(self, table: str, rows: pa.Table, token: str) -> None:
        """Insert rows once: the same token again, within the table's deduplication window, inserts nothing."""
        settings = {**_INSERT_SETTINGS, "insert_deduplication_token": token}
        await self._call(lambda: self._client.insert_arrow(table, rows, settings=settings))

    async def _call(self, function: Callable[[], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function)
        except ClickHouseError as error:
            raise _translated(error) from error


def _translated(error: ClickHouseError) -> TallyError:
    code = error_code(error)
    if code in AUTHENTICATION_FAILED:
        return Fatal("ClickHouse refused the credentials in TALLY_CLICKHOUSE")
    if code in MISSING:
        return Fatal(f"ClickHouse lacks what Tally needs (`tally init` creates it; TALLY_DATABASE): {error}")
    if code in NOT_NOW or not code:
        return Unavailable(f"ClickHouse (TALLY_CLICKHOUSE) cannot answer now: {error}")
    return StatementRefused(code, f"ClickHouse refused a statement: {error}")


@asynccontextmanager
async def connect(settings: Settings, *, database: str | None = None, threads: int = 4) -> AsyncIterator[ClickHouse]:
    """Connect to a database (default: the configured one). Raises Unavailable or Fatal when that fails."""
    settings.need("clickhouse")
    url = _parsed(settings)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clickhouse")
    sockets = urllib3.PoolManager(maxsize=threads, retries=False)

    def open_client() -> Client:
        return clickhouse_connect.get_client(
            interface=url.scheme or "http",
            host=url.hostname or "127.0.0.1",
            port=url.port or (8443 if url.scheme == "https" else 8123),
            username=unquote(url.username or "default"),
            password=unquote(url.password or ""),
            database=database or settings.database,
            connect_timeout=settings.connect_timeout_ms // 1000 or 1,
            send_receive_timeout=settings.query_timeout_ms // 1000,
            autogenerate_session_id=False,  # a session would run its queries one after another
            pool_mgr=sockets,
            compress=False,
            tz_mode="aware",
        )

    try:
        try:
            client = await asyncio.get_running_loop().run_in_executor(pool, open_client)
        except ClickHouseError as error:
            raise _translated(error) from error
        try:
            yield ClickHouse(client, pool)
        finally:
            client.close()
    finally:
        # A statement that hangs must not hold up a stop: its thread is left to end by its own timeout.
        pool.shutdown(wait=False, cancel_futures=True)
        sockets.clear()


def _parsed(settings: Settings) -> SplitResult:
    try:
        url = urlsplit(settings.clickhouse.get_secret_value())
        port = url.port
    except ValueError:
        port, url = None, SplitResult("", "", "", "", "")
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        raise SettingsError("TALLY_CLICKHOUSE: write http://[user:password@]host:port, with / and @ as %2F and %40")
    return url
