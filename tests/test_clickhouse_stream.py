"""Streamed results: complete, or an error. Memory does not grow with them, on either side."""

import asyncio
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest

from deploy.embedded.clickhouse_http.statement import PIPED_OUTPUT, STREAMABLE_OUTPUT
from deploy.embedded.stack import Stack
from runtime.clickhouse import ClickHouse, connect
from runtime.clickhouse_stream import TAIL_BYTES
from runtime.errors import Fatal, StatementRefused, StatementTimeout, Unavailable
from runtime.settings import Settings
from tests.lab import Lab, at_port

NUMBERS = "SELECT number, toString(number) AS text FROM numbers({rows:UInt64})"
LIMIT_S = 60.0


async def result(database: ClickHouse, sql: str, timeout_s: float = LIMIT_S, **parameters: Any) -> bytes:
    async with database.stream(sql, parameters, settings={}, timeout_s=timeout_s) as pieces:
        return b"".join([piece async for piece in pieces])


@asynccontextmanager
async def server_of(settings: Settings, response: bytes) -> AsyncIterator[ClickHouse]:
    """A connection to a server that answers every request with these bytes, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    there = at_port(settings.clickhouse, server.sockets[0].getsockname()[1])
    async with server, connect(settings.model_copy(update={"clickhouse": there}), lazily=True) as database:
        yield database


async def test_a_result_is_the_whole_result(lab: Lab) -> None:
    lines = (await result(lab.database, f"{NUMBERS} FORMAT CSV", rows=300_000)).decode().splitlines()
    assert lines == [f'{number},"{number}"' for number in range(300_000)]
    assert await result(lab.database, f"{NUMBERS} FORMAT CSV", rows=0) == b""


async def test_parameters_are_bound(lab: Lab) -> None:
    texts = ["'; DROP TABLE interactions --", "\t\n\\N\x00", "ä & = % + ?"]
    sql = "SELECT {one:String}, {many:Array(String)}, {number:Int64}, {flag:Bool} FORMAT JSONCompactEachRow"
    found = await result(lab.database, sql, one=texts[0], many=texts, number=-5, flag=True)
    assert httpx.Response(200, content=found).json() == [texts[0], texts, -5, True]


@pytest.mark.parametrize("output", ["CSV", "Parquet", "ArrowStream"])
async def test_an_error_before_the_first_byte_is_that_of_the_statement(lab: Lab, output: str) -> None:
    with pytest.raises(StatementRefused) as raised:
        await result(lab.database, f"SELECT nothing FORMAT {output}")
    assert raised.value.code == 47


@pytest.mark.parametrize("output", ["CSV", "ArrowStream", "Parquet SETTINGS output_format_parquet_row_group_size = 99"])
async def test_an_error_after_the_first_byte_is_that_of_the_statement(lab: Lab, output: str) -> None:
    size = 0
    sql = f"SELECT throwIf(number = 2000000, 'at two million'), number FROM numbers(3000000) FORMAT {output}"
    with pytest.raises(StatementRefused, match="at two million") as raised:
        async with lab.database.stream(sql, {}, settings={}, timeout_s=LIMIT_S) as pieces:
            async for piece in pieces:
                size += len(piece)
    assert size > 0
    assert raised.value.code == 395


async def test_a_time_limit_is_an_error(lab: Lab) -> None:
    with pytest.raises(StatementTimeout):
        await result(lab.database, "SELECT max(sipHash64(number)) FROM numbers(1000000000000) FORMAT CSV", 0.3)


async def test_no_server_and_wrong_credentials_are_errors(settings: Settings) -> None:
    async with connect(
        settings.model_copy(update={"clickhouse": at_port(settings.clickhouse, 1)}), lazily=True
    ) as away:
        with pytest.raises(Unavailable, match="TALLY_CLICKHOUSE"):
            await result(away, "SELECT 1 FORMAT CSV")
    url = settings.clickhouse.get_secret_value().replace("tally:", "tally:not")
    wrong = settings.model_copy(update={"clickhouse": type(settings.clickhouse)(url)})
    async with connect(wrong, lazily=True) as refused:
        with pytest.raises(Fatal, match="credentials"):
            await result(refused, "SELECT 1 FORMAT CSV")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%b\r\n"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"", "closed before the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1\n", "closed before the end"),
        (b"HTTP/1.1 200 OK\r\n\r\n1\n", "closed before the end"),
        (CHUNKED % b"" + b"2\r\n1\n\r\n", "closed before the end"),
        (b"SSH-2.0-OpenSSH\r\n", "is not HTTP"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nproxy", "HTTP status 502: proxy"),
    ],
)
async def test_a_result_without_its_end_is_an_error(settings: Settings, response: bytes, message: str) -> None:
    async with server_of(settings, response) as database:
        with pytest.raises(Unavailable, match=message):
            await result(database, "SELECT 1 FORMAT CSV")


@pytest.mark.parametrize("size", [0, 1, TAIL_BYTES, 3 * TAIL_BYTES])
@pytest.mark.parametrize("text", ["Code: 241. DB::Exception: Memory limit exceeded", "Code: 241. " + "x" * 16_000])
async def test_a_marked_error_at_the_end_of_a_complete_response_is_an_error(
    settings: Settings, size: int, text: str
) -> None:
    """As ClickHouse 25.11 and later write it, also where a proxy completes the response."""
    tag, line = b"a1b2c3d4", text.encode() + b"\n"
    body = b"1" * size + b"\r\n__exception__\r\n%b\r\n%b%d %b\r\n__exception__\r\n" % (tag, line, len(line), tag)
    head = CHUNKED % (b"X-ClickHouse-Exception-Tag: %b\r\n" % tag)
    async with server_of(settings, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)) as database:
        with pytest.raises(Unavailable, match=r"Code: 241"):
            await result(database, "SELECT 1 FORMAT CSV")


async def test_the_mark_of_another_response_is_data(settings: Settings) -> None:
    body = b"\r\n__exception__\r\nother\r\ntext\n5 other\r\n__exception__\r\n"
    head = CHUNKED % b"X-ClickHouse-Exception-Tag: mine\r\n"
    async with server_of(settings, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)) as database:
        assert await result(database, "SELECT 1 FORMAT CSV") == body


ERROR = b"Code: 395. DB::Exception: at two million (FUNCTION_THROW_IF) (version 25.3.1.1 (official build))"


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b""], ids=["complete", "broken"])
@pytest.mark.parametrize("rows", [b"", b"1\n", b"1\n" * TAIL_BYTES])
async def test_the_rows_before_an_error_are_a_result_without_it(settings: Settings, rows: bytes, end: bytes) -> None:
    """Servers before 25.11 mark no error; an error without its end is one too."""
    marked = b"\r\n__exception__\r\nmine\r\n%b\n%d mine\r\n__exception__\r\n" % (ERROR, len(ERROR) + 1)
    for tag, error in ((b"", ERROR + b"\n"), (b"mine", marked), (b"mine", marked[:-60])):
        head = CHUNKED % (b"X-ClickHouse-Exception-Tag: %b\r\n" % tag if tag else b"")
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (rows, error) if part)
        arrived = b""
        async with server_of(settings, head + body + end) as database:
            with pytest.raises(StatementRefused, match="at two million") as raised:
                async with database.stream("SELECT 1", {}, settings={}, timeout_s=LIMIT_S) as pieces:
                    async for piece in pieces:
                        arrived += piece
        assert (arrived, raised.value.code) == (rows, 395)


@pytest.mark.parametrize("row", [b'"%b"\n', b"says %b\n"])
async def test_a_row_that_quotes_an_error_is_data(settings: Settings, row: bytes) -> None:
    body = row % ERROR
    response = CHUNKED % b"" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with server_of(settings, response) as database:
        assert await result(database, "SELECT 1 FORMAT CSV") == body


async def test_parquet_is_streamed_in_row_groups(lab: Lab) -> None:
    settings = "SETTINGS output_format_parquet_row_group_size = 1000"
    data = await result(lab.database, f"{NUMBERS} FORMAT Parquet {settings}", rows=200_000)
    file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    assert file.num_row_groups > 100
    assert file.read().to_pydict() == {
        "number": list(range(200_000)),
        "text": [str(number) for number in range(200_000)],
    }


async def test_many_results_at_once_are_independent(lab: Lab) -> None:
    found = await asyncio.gather(*(result(lab.database, f"{NUMBERS} FORMAT Parquet", rows=rows) for rows in range(20)))
    assert [pyarrow.parquet.read_table(io.BytesIO(each)).num_rows for each in found] == list(range(20))


def test_parquet_of_a_read_only_user_is_streamed_and_files_stay_closed(stack: Stack) -> None:
    with httpx.Client(base_url=stack.stack_file().endpoints.analyst) as analyst:
        answer = analyst.post("/", content="SELECT 1 AS one FORMAT Parquet")
        assert pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pydict() == {"one": [1]}
        for into in ("INTO OUTFILE '/tmp/x' FORMAT Parquet", "INTO OUTFILE '/dev/fd/1' TRUNCATE FORMAT Parquet"):
            refused = analyst.post("/", content=f"SELECT 1 AS one {into}")
            assert (refused.status_code, refused.headers["x-clickhouse-exception-code"]) == (403, "497")


def test_every_format_that_the_product_reads_is_streamed() -> None:
    """Other formats are formatted at once, and the front bounds their size."""
    root = Path(__file__).parent.parent
    paths = [path for folder in ("readers", "learning", "tally") for path in (root / folder).rglob("*.py")]
    named = {name for path in paths for name in re.findall(r"FORMAT ([A-Z]\w+)", path.read_text())}
    assert {"ArrowStream", "JSONCompactEachRow", "RowBinary"} <= named
    assert {name for name in named if name.lower() not in STREAMABLE_OUTPUT | PIPED_OUTPUT} == set()
