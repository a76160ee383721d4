"""Connections to ClickHouse. The client's calls block, so they run in a small pool of threads."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import SecretStr

from runtime.clickhouse_http import HttpEndpoint, QueryPool, TextParameters
from runtime.clickhouse_stream import streamed
from runtime.errors import SettingsError
from runtime.faults.clickhouse import clickhouse_fault
from runtime.settings import Settings
from runtime.tls import tls_context
from schemas.event_time import to_epoch_ms

Result = TypeVar("Result")

_INSERT_SETTINGS = {
    # A client-side asynchronous insert would be acknowledged before it is durable.
    "async_insert": 0,
    # Rows of one batch have distinct ids; merging them again at insert costs 1.3 us per event.
    "optimize_on_insert": 0,
}


_CLUSTER_SETTINGS = {
    # An insert is acknowledged once every shard has its rows on a quorum of replicas; DDL once all nodes ran it.
    "distributed_foreground_insert": 1,
    "insert_quorum": "auto",
    "distributed_ddl_task_timeout": 120,
    # A subquery reads all shards, not only the rows of the shard that runs it.
    "distributed_product_mode": "global",
}


class EncodedRows(NamedTuple):
    """Encoded rows of one insert."""

    columns: Sequence[str]
    chunks: Sequence[bytes]
    """Native blocks as one LZ4 frame, in pieces."""
    token: str
    """Deduplication token: see `ClickHouse.insert`."""


class BoundParameters:
    """Bound parameters of one statement, numbered in order."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def bind(self, value: Any, kind: str) -> str:
        """Bind a value of a ClickHouse type and return its placeholder. A time is bound as milliseconds."""
        if isinstance(value, datetime):
            return f"fromUnixTimestamp64Milli({self.bind(to_epoch_ms(value), 'Int64')}, 'UTC')"
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"


class _SinglePassBody:
    """Request body in pieces that refuses a second pass: the client's own retry would send an incomplete body."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks
        self._is_sent = False

    def __iter__(self) -> Iterator[bytes]:
        if self._is_sent:
            raise RuntimeError("a request body cannot be sent twice")
        self._is_sent = True
        return iter(self._chunks)


class ClickHouse:
    """Queries and inserts over the connections of one process."""

    def __init__(self, open_client: Callable[[], Client], threads: ThreadPoolExecutor, endpoint: HttpEndpoint) -> None:
        self._open_client = open_client
        self._endpoint = endpoint
        self._pool = QueryPool(endpoint)
        self._opened: Client | None = None
        self._opening = Lock()
        self._threads = threads

    async def rows(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, limits: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Run a query with bound parameters and return its rows. `limits` are ClickHouse settings of this query."""
        values, own = dict(parameters or {}), dict(limits or {})
        return await self._call(lambda client: client.query(sql, parameters=values, settings=own).result_rows)

    async def fetch(self, sql: str, parameters: TextParameters) -> bytes:
        """Run a short SELECT with bound texts on a kept connection, and return its rows in JSONCompactEachRow."""
        try:
            return await self._pool.fetch(sql, parameters)
        except ClickHouseError as error:
            raise clickhouse_fault(error) from error

    @asynccontextmanager
    async def stream(
        self, sql: str, parameters: Mapping[str, Any], *, settings: Mapping[str, object], timeout_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Run a SELECT with bound parameters, and yield the pieces of its result, of any size, in its own format.

        `settings` are ClickHouse settings of this query. Raises StatementTimeout once `timeout_s` are over, and
        Unavailable for a result without its end.
        """
        try:
            async with streamed(self._endpoint, sql, parameters, settings, timeout_s) as result:
                yield result.pieces
        except ClickHouseError as error:
            raise clickhouse_fault(error) from error

    async def command(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, limits: Mapping[str, Any] | None = None
    ) -> None:
        """Run a statement that returns no rows. `limits` are ClickHouse settings of this statement."""
        values, own = dict(parameters or {}), dict(limits or {})
        await self._call(lambda client: client.command(sql, parameters=values, settings=own))

    async def open(self) -> None:
        """Connect now instead of at the first statement."""
        await self._call(lambda _client: None)

    def close(self) -> None:
        """Disconnect, if connected."""
        self._pool.close()
        if self._opened is not None:
            self._opened.close()

    async def insert(self, table: str, rows: EncodedRows) -> None:
        """Insert rows once. Repeating a token within the table's deduplication window inserts nothing."""
        settings = {**_INSERT_SETTINGS, "insert_deduplication_token": rows.token}
        body: Any = _SinglePassBody(rows.chunks)
        await self._call(lambda client: client.raw_insert(table, rows.columns, body, settings, "Native", "lz4"))

    async def insert_row(self, table: str, row: Mapping[str, Any], token: str) -> None:
        """Insert a row of JSON values once: see `insert`."""
        await self.insert_lines(table, [*row], json.dumps(row).encode(), token)

    async def insert_lines(self, table: str, columns: Sequence[str], lines: bytes, token: str) -> None:
        """Insert rows once, which are lines of JSON objects: see `insert`."""
        settings = {"insert_deduplication_token": token}
        await self._call(lambda client: client.raw_insert(table, columns, lines, settings, "JSONEachRow"))

    async def _call(self, function: Callable[[Client], Result]) -> Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(self._client()))
        except ClickHouseError as error:
            raise clickhouse_fault(error) from error

    def _client(self) -> Client:
        with self._opening:
            if self._opened is None:
                self._opened = self._open_client()
            return self._opened


@asynccontextmanager
async def connect(
    settings: Settings, *, database: str | None = None, threads: int = 4, lazily: bool = False
) -> AsyncIterator[ClickHouse]:
    """Connect to a database (default: the configured one). Raises Unavailable or Fatal when the connection fails.

    `lazily`: connect at the first statement, which then raises these errors.
    """
    settings.need("clickhouse")
    cluster = _CLUSTER_SETTINGS if settings.clickhouse_cluster else {}
    endpoint = endpoint_of(settings, parse_url(settings.clickhouse, "TALLY_CLICKHOUSE"))._replace(settings=cluster)
    if database:
        endpoint = endpoint._replace(database=database)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clickhouse")
    sockets = urllib3.PoolManager(maxsize=threads, retries=False, ssl_context=endpoint.trust)

    def open_client() -> Client:
        return clickhouse_connect.get_client(
            interface="https" if endpoint.trust else "http",
            host=endpoint.host,
            port=endpoint.port,
            username=endpoint.user,
            password=endpoint.password,
            database=endpoint.database,
            connect_timeout=settings.connect_timeout_ms // 1000 or 1,
            send_receive_timeout=settings.query_timeout_ms // 1000,
            autogenerate_session_id=False,  # a session runs its queries one after another
            pool_mgr=sockets,
            compress=False,
            tz_mode="aware",
            settings=cluster or None,
        )

    opened = ClickHouse(open_client, pool, endpoint)
    try:
        if not lazily:
            await opened.open()
        yield opened
    finally:
        opened.close()
        # A hanging statement must not delay shutdown: its thread ends by its own timeout.
        pool.shutdown(wait=False, cancel_futures=True)
        sockets.clear()


def endpoint_of(settings: Settings, url: SplitResult) -> HttpEndpoint:
    """Return the endpoint at a URL of ClickHouse, for the configured database and time limits."""
    return HttpEndpoint(
        url.hostname or "127.0.0.1",
        port_of(url),
        unquote(url.username or "default"),
        unquote(url.password or ""),
        settings.database,
        settings.connect_timeout_ms / 1000,
        settings.query_timeout_ms / 1000,
        {},
        tls_context(settings) if url.scheme == "https" else None,
    )


def parse_url(secret: SecretStr, setting: str) -> SplitResult:
    """Parse a URL of ClickHouse. Raises SettingsError that names the setting, and not the URL."""
    try:
        url = urlsplit(secret.get_secret_value())
        port = url.port
        (url.hostname or "").encode("idna")
    except ValueError:
        port, url = None, SplitResult("", "", "", "", "")
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        raise SettingsError(
            f"{setting}: write http[s]://host:port; user:password@ before the host has / and @ as %2F and %40"
        )
    return url


def port_of(url: SplitResult) -> int:
    """Return the port of a URL of ClickHouse's HTTP interface, by default that of its scheme."""
    return url.port or (8443 if url.scheme == "https" else 8123)
