"""ASGI application that runs each request's statement in a thread."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from deploy.embedded.clickhouse_http.body import (
    PIECE_BYTES,
    ClientDisconnected,
    Receive,
    decoded,
    read_form,
    read_statement,
)
from deploy.embedded.clickhouse_http.engine import Engine, summary
from deploy.embedded.clickhouse_http.errors import ClickHouseError, ErrorCode, error
from deploy.embedded.clickhouse_http.request import Request, check_origin, headers_of, read_request
from deploy.embedded.clickhouse_http.statement import Statement, is_reading
from deploy.embedded.clickhouse_http.users import User

Send = Callable[[Any], Awaitable[None]]

MAX_RUNNING = 32
MAX_WAITING = 256

_CONTENT_TYPES = {
    "tabseparated": "text/tab-separated-values; charset=UTF-8",
    "csv": "text/csv; charset=UTF-8",
    "json": "application/json; charset=UTF-8",
    "jsoneachrow": "application/x-ndjson; charset=UTF-8",
    "parquet": "application/vnd.apache.parquet",
}

log = logging.getLogger(__name__)


class Front:
    """ClickHouse's HTTP interface of one engine."""

    def __init__(self, engine: Engine, users: Sequence[User], *, only_local: bool) -> None:
        self._engine = engine
        self._users = {user.name: user for user in users}
        self._only_local = only_local
        self._threads = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="query")
        self._killers = ThreadPoolExecutor(1, thread_name_prefix="kill")
        self._places = asyncio.Semaphore(MAX_RUNNING)
        self._waiting = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            return
        answer = FrontResponse(send)
        try:
            check_origin(headers_of(scope), only_local=self._only_local)
            if scope["path"] == "/ping" or _is_greeting(scope):
                await answer.whole(200, b"Ok.\n", {"content-type": "text/html; charset=UTF-8"})
            elif scope["path"] != "/":
                raise ClickHouseError(ErrorCode.UNKNOWN_ACTION, f"There is no handle {scope['path']}\n")
            else:
                await self._serve(read_request(scope, self._users), receive, answer)
        except ClientDisconnected:
            log.info("client disconnected before its response")
        except ClickHouseError as failed:
            await answer.failed(failed)
        except Exception:
            log.exception("request failed unexpectedly")
            await answer.failed(error(ErrorCode.UNKNOWN_EXCEPTION, "The front failed; its log has the stack trace"))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise error(
                ErrorCode.TOO_MANY_SIMULTANEOUS_QUERIES, f"Too many simultaneous queries: {MAX_WAITING} are waiting"
            )
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _serve(self, request: Request, receive: Receive, answer: "FrontResponse") -> None:
        body = decoded(receive, request.content_encoding)
        if request.form_type:
            request = request.with_fields(await read_form(body, request.form_type))
        statement = await read_statement(request.query, body, request.default_format)
        if request.whole_result and statement.kind in {"stream_out", "pipe_out"}:
            statement = statement._replace(kind="at_once")
        if request.only_reads and not is_reading(statement.sql):
            raise error(ErrorCode.READONLY, "Cannot execute query in readonly mode: GET only reads, use POST")
        async with self._place():
            await self._run(statement, body, request, receive, answer)

    async def _run(
        self,
        statement: Statement,
        body: AsyncIterator[bytes],
        request: Request,
        receive: Receive,
        answer: "FrontResponse",
    ) -> None:
        if statement.kind != "stream_in":
            async with self._kill_on_disconnect(request.caller.mark, statement, receive, answer):
                await self._read(statement, request, answer)
            return
        insert = await self._call(self._engine.insert, request.caller, statement)
        try:
            pending = statement.data
            async for piece in body:
                pending += piece
                if len(pending) >= PIECE_BYTES:  # a switch of threads costs as much as parsing 100 KB
                    await self._call(insert.append, pending)
                    pending = b""
            written_rows = await self._call(insert.finish, pending)
        except BaseException:
            await self._call(insert.cancel)
            raise
        await answer.whole(200, b"", _headers(request, statement) | {"x-clickhouse-summary": summary(written_rows)})

    async def _read(self, statement: Statement, request: Request, answer: "FrontResponse") -> None:
        headers = _headers(request, statement)
        result = self._engine.result(request.caller, statement, request.params)
        is_last = False
        try:
            # Headers are sent with the first piece, so an error before it has its own status.
            piece, is_last = await self._call(_next_piece, result)
            if is_last:
                await answer.whole(200, piece, headers)
                return
            while not is_last:
                await answer.piece(200, piece, headers)
                piece, is_last = await self._call(_next_piece, result)
            await answer.last_piece(200, piece, headers)
        finally:
            if not is_last:
                await self._call(result.close)

    @asynccontextmanager
    async def _kill_on_disconnect(
        self, mark: str, statement: Statement, receive: Receive, answer: "FrontResponse"
    ) -> AsyncIterator[None]:
        """Watch the connection while a read-only statement runs, and kill the query when the client disconnects."""
        if not is_reading(statement.sql):
            yield
            return

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answer.is_complete:  # the end of a complete response is reported as a disconnect, too
                await asyncio.get_running_loop().run_in_executor(self._killers, partial(self._engine.kill, mark))

        watcher = asyncio.create_task(watch())
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError, ClickHouseError):
                await watcher

    def close(self) -> None:
        """Wait for running statements and shut the engine down."""
        self._threads.shutdown()
        self._killers.shutdown()
        self._engine.close()


class FrontResponse:
    """HTTP response, whose status and headers are sent with the first byte."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self.is_complete = False
        """Whether the last byte has been sent."""
        self._tag = secrets.token_hex(8)

    async def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a whole response."""
        await self.last_piece(status, body, headers | {"content-length": str(len(body))})

    async def piece(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a piece that others follow."""
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def last_piece(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send the last piece."""
        await self._start(status, headers)
        self.is_complete = True
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def failed(self, failed: ClickHouseError) -> None:
        """Send an error. After the first byte it ends the result's text, and the connection is broken off."""
        text = failed.text.encode() + b"\n"
        if self._started:
            # In the format of ClickHouse 25.11 and later. The response is never completed, so the server closes the
            # connection, and no client mistakes the result for complete, even if it does not know the tag.
            tag = self._tag.encode()
            marked = b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n" % (tag, text, len(text), tag)
            await self._send({"type": "http.response.body", "body": marked, "more_body": True})
            return
        headers = {
            "content-type": "text/plain; charset=UTF-8",
            "x-clickhouse-exception-code": str(failed.code),
        }
        await self.whole(failed.http_status, text, headers)

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        if not self._started:
            self._started = True
            headers = headers | {"x-clickhouse-exception-tag": self._tag}
            pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
            await self._send({"type": "http.response.start", "status": status, "headers": pairs})


def _next_piece(blocks: Iterator[bytes]) -> tuple[bytes, bool]:
    """Join blocks up to PIECE_BYTES, or one larger block. Also return whether they are the last."""
    piece = b""
    for block in blocks:
        piece += block
        if len(piece) >= PIECE_BYTES:
            return piece, False
    return piece, True


def _is_greeting(scope: Any) -> bool:
    """Return whether a request is `curl http://host:port/` without a statement."""
    return bool(
        scope["path"] == "/"
        and scope["method"] in {"GET", "HEAD"}
        and not scope["query_string"]
        and not any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])
    )


def _headers(request: Request, statement: Statement) -> dict[str, str]:
    query_id = request.caller.query_id
    return {
        "content-type": _CONTENT_TYPES.get(statement.format.lower(), "application/octet-stream"),
        "x-clickhouse-format": statement.format,
        "x-clickhouse-query-id": "".join(char for char in query_id if char.isprintable() and char.isascii()),
        "x-clickhouse-server-display-name": "tally-embedded",
        "x-clickhouse-timezone": "UTC",
    }
