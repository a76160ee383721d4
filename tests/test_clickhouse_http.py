"""Short queries on kept connections: values, errors, and connections that fail."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from deploy.embedded.services import HOST
from runtime import clickhouse_http
from runtime.clickhouse import connect
from runtime.errors import Fatal, TallyError, Unavailable
from runtime.settings import Settings
from tests.lab import Lab, at_port

TEXTS = ["a'b", "tab\there", "back\\slash", "line\nbreak", "{x:String}", "", "ü", "a,b", "\r\0x", "q?&=%+ #", "['x']"]
CUT_OFF = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n["1"'
WHOLE = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n["1"]'

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server_of(settings: Settings, serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Settings]:
    """Settings whose ClickHouse is a server that misbehaves."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, HOST, 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield settings.model_copy(
            update={"clickhouse": at_port(settings.clickhouse, port, "https" if tls else ""), "tls_ca_file": ""}
        )


async def fetch(settings: Settings) -> bytes:
    async with connect(settings, lazily=True) as database:
        return await database.fetch("SELECT '1'", {})


async def read_request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len("SELECT '1'"))


async def test_texts_of_any_content_are_bound(lab: Lab) -> None:
    for text in TEXTS:
        found = await lab.database.fetch(
            "SELECT {text:String}, {texts:Array(String)}, {none:Array(String)}",
            {"text": text, "texts": TEXTS, "none": []},
        )
        assert json.loads(found) == [text, TEXTS, []]


@pytest.mark.parametrize(
    "sql",
    [
        "SELEC 1",
        "SELECT nothing",
        "SELECT * FROM nowhere",
        "SELECT throwIf(number = 3) FROM numbers(10)",
        "SELECT sleepEachRow(1) FROM numbers(5) SETTINGS max_execution_time = 1",
    ],
)
async def test_errors_are_those_of_other_queries(lab: Lab, sql: str) -> None:
    with pytest.raises(TallyError) as expected:
        await lab.database.rows(sql)
    with pytest.raises(TallyError) as raised:
        await lab.database.fetch(sql, {})
    assert type(raised.value) is type(expected.value)
    assert getattr(raised.value, "code", 0) == getattr(expected.value, "code", 0)
    assert getattr(raised.value, "kind", "") == getattr(expected.value, "kind", "")


async def test_wrong_credentials_name_the_setting(lab: Lab) -> None:
    url = lab.settings.clickhouse.get_secret_value().replace("@", "x@")
    with pytest.raises(Fatal, match="TALLY_CLICKHOUSE"):
        await fetch(lab.settings.model_copy(update={"clickhouse": SecretStr(url)}))


async def test_a_kept_connection_that_the_server_closed_is_replaced(settings: Settings) -> None:
    """The server announces a kept connection, and closes it when the second request arrives."""
    connections = 0

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(WHOLE)
        await read_request(reader)

    async with server_of(settings, closing) as changed, connect(changed, lazily=True) as database:
        for _ in range(3):
            assert await database.fetch("SELECT '1'", {}) == b'["1"]'
    assert connections == 3


async def test_a_new_connection_that_fails_is_not_tried_again(settings: Settings) -> None:
    connections = 0

    async def closing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)

    async with server_of(settings, closing) as changed:
        with pytest.raises(Unavailable, match="closed the connection"):
            await fetch(changed)
    assert connections == 1


@pytest.mark.parametrize("answer", [CUT_OFF, b"no HTTP at all", b"HTTP/1.1 200 OK\r\n"])
async def test_a_broken_response_is_not_a_result(settings: Settings, answer: bytes) -> None:
    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)

    async with server_of(settings, breaking) as changed:
        with pytest.raises(Unavailable, match="TALLY_CLICKHOUSE"):
            await fetch(changed)


async def test_a_response_has_a_largest_size(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse_http, "RESPONSE_BYTES", 10)

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(WHOLE)
        await reader.read()

    async with server_of(settings, answering) as changed:
        with pytest.raises(Unavailable, match="larger than 10 bytes"):
            await fetch(changed)


async def test_a_server_that_does_not_respond_is_given_up(settings: Settings) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server_of(settings.model_copy(update={"query_timeout_ms": 1_000}), silent) as changed:
        with pytest.raises(Unavailable, match="TALLY_QUERY_TIMEOUT_MS"):
            await fetch(changed)


async def test_connections_are_bounded(settings: Settings) -> None:
    """Further queries wait until a connection is free."""
    connections, arrived, answer = 0, asyncio.Event(), asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == clickhouse_http.CONNECTIONS:
            arrived.set()
        while True:
            await read_request(reader)
            await answer.wait()
            writer.write(WHOLE)

    async with server_of(settings, waiting) as changed, connect(changed, lazily=True) as database:
        queries = [asyncio.ensure_future(database.fetch("SELECT '1'", {})) for _ in range(30)]
        async with asyncio.timeout(20):
            await arrived.wait()
            answer.set()
            assert await asyncio.gather(*queries) == [b'["1"]'] * 30
    assert connections == clickhouse_http.CONNECTIONS


async def test_a_certificate_of_another_authority_is_refused(settings: Settings, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))

    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(WHOLE)

    async with server_of(settings, answering, context) as changed:
        with pytest.raises(Fatal, match="TALLY_TLS_CA_FILE"):
            await fetch(changed)
        assert await fetch(changed.model_copy(update={"tls_ca_file": str(trusted)})) == b'["1"]'
