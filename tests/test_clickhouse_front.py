"""The ClickHouse front's contract, held through clickhouse-connect and plain HTTP as curl speaks it."""

import asyncio
import datetime as dt
import gzip
import socket
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import httpx
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from lz4.frame import compress as lz4_compress  # type: ignore[attr-defined]

from deploy.embedded.clickhouse_http.app import MAX_RUNNING
from deploy.embedded.clickhouse_http.body import MAX_QUERY_BYTES
from deploy.embedded.clickhouse_http.priority import MERGE_NICENESS
from deploy.embedded.stack import Stack
from runtime.faults.clickhouse import error_code
from runtime.settings import Settings
from tests.waiting import eventually

DEADLINE_S = 20.0
ENDLESS = "SELECT sum(sipHash64(number)) FROM system.numbers"


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    """A client on a database of its own."""
    connected = clickhouse_connect.get_client(dsn=settings.clickhouse.get_secret_value(), autogenerate_session_id=False)
    connected.command(f"CREATE DATABASE {settings.database}")
    connected.database = settings.database
    yield connected
    connected.command(f"DROP DATABASE {settings.database}")
    connected.close()


@pytest.fixture
def http(settings: Settings) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=settings.clickhouse.get_secret_value(), timeout=DEADLINE_S) as opened:
        yield opened


def niceness(pid: int) -> dict[str, set[int]]:
    """The niceness of a process's threads, by their names without numbers."""
    found: dict[str, set[int]] = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            name, _, fields = (thread / "stat").read_text().partition("(")[2].rpartition(")")
            found.setdefault(name.rstrip("0123456789"), set()).add(int(fields.split()[16]))
    return found


def raw_head(settings: Settings, path: str, length: int) -> bytes:
    """The first bytes of a POST, as a client without a library sends them."""
    url = urlsplit(settings.clickhouse.get_secret_value())
    credentials = b64encode(f"{url.username}:{url.password}".encode()).decode()
    lines = (f"POST {path} HTTP/1.1", f"Host: {url.hostname}:{url.port}", f"Authorization: Basic {credentials}")
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def make_table(client: Client) -> None:
    client.command(
        "CREATE TABLE t (a Int64, s Nullable(String), l Array(String), d DateTime64(3, 'UTC')) ENGINE = MergeTree "
        "ORDER BY a SETTINGS non_replicated_deduplication_window = 100"
    )


WHEN = dt.datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=dt.UTC)
ROWS = [(1, "x", ["p", "q"], WHEN), (2, None, [], WHEN)]


def test_rows_columns_and_arrow_are_read_back_unchanged(client: Client) -> None:
    make_table(client)
    names = ["a", "s", "l", "d"]
    client.insert("t", ROWS, column_names=names)
    client.insert("t", [[3], ["y"], [["r"]], [WHEN]], column_names=names, column_oriented=True)
    when = pa.array([WHEN], pa.timestamp("ms", tz="UTC"))
    client.insert_arrow("t", pa.table({"a": [4], "s": ["z"], "l": [["s"]], "d": when}))
    got = client.query("SELECT * FROM t ORDER BY a", tz_mode="aware").result_rows
    assert got == [*ROWS, (3, "y", ["r"], WHEN), (4, "z", ["s"], WHEN)]
    assert client.query_arrow("SELECT a FROM t ORDER BY a").column("a").to_pylist() == [1, 2, 3, 4]
    assert client.query_df("SELECT a FROM t").shape == (4, 1)


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", False])
def test_compressing_clients_insert_and_read(settings: Settings, client: Client, compression: str | bool) -> None:
    make_table(client)
    packed = clickhouse_connect.get_client(
        dsn=settings.clickhouse.get_secret_value(), database=settings.database, compress=compression
    )
    many = [(number, "text" * 20, ["a"] * 3, WHEN) for number in range(50_000)]
    packed.insert("t", many, column_names=["a", "s", "l", "d"])
    assert packed.query("SELECT count(), sum(a), uniq(s) FROM t").result_rows == [(50_000, 1_249_975_000, 1)]
    assert len(packed.query("SELECT * FROM t").result_rows) == 50_000


def test_scalars_and_arrays_of_any_content_are_bound(client: Client) -> None:
    nasty = ["a'b", "tab\there", "back\\slash", "line\nbreak", "{x:String}", "", "ü"]
    sql = "SELECT {s:String}, {l:Array(String)}, {n:Array(UInt64)}, {d:DateTime64(3)}, {i:Int8}"
    for text in nasty:
        parameters = {"s": text, "l": nasty, "n": [1, 2**63], "d": "2026-01-02 03:04:05.678", "i": -5}
        (row,) = client.query(sql, parameters=parameters).result_rows
        assert row[0] == text
        assert list(row[1]) == nasty
        assert list(row[2]) == [1, 2**63]
        assert row[4] == -5


def test_parameters_too_long_for_a_url_are_bound_too(client: Client) -> None:
    ids = [f"int_{number:032x}" for number in range(2_000)]
    assert client.query("SELECT length({ids:Array(String)})", parameters={"ids": ids}).result_rows == [(2_000,)]


def test_settings_hold_for_one_request(client: Client) -> None:
    read = "SELECT getSetting('max_threads')"
    before = client.query(read).result_rows
    assert client.query(read, settings={"max_threads": 7}).result_rows == [(7,)]
    assert client.query(read).result_rows == before


def test_nothing_of_a_select_reaches_the_next_one(client: Client) -> None:
    """SELECTs of one user share sessions."""
    read = "SELECT getSetting('max_threads'), getSetting('max_block_size'), currentDatabase()"
    before = client.query(read).result_rows
    assert client.query(f"{read} SETTINGS max_threads = 7, max_block_size = 11").result_rows[0][:2] == (7, 11)
    assert client.query(read).result_rows == before
    assert client.query("SELECT {x:String}", parameters={"x": "a"}).result_rows == [("a",)]
    with pytest.raises(DatabaseError) as raised:
        client.query("SELECT {x:String}")
    assert error_code(raised.value) == 456
    assert client.query(read).result_rows == before


def test_a_repeated_insert_with_the_same_token_is_ignored(client: Client) -> None:
    make_table(client)
    for token, expected in (("one", 2), ("one", 2), ("two", 4)):
        client.insert("t", ROWS, column_names=["a", "s", "l", "d"], settings={"insert_deduplication_token": token})
        assert client.command("SELECT count() FROM t") == expected


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELEC 1 FROM", 62),
        ("SELECT * FROM nowhere", 60),
        ("SELECT nothing", 47),
        ("SELECT throwIf(number = 3) FROM numbers(10)", 395),
        ("INSERT INTO nowhere SELECT 1", 60),
    ],
)
def test_errors_keep_the_engines_code(client: Client, sql: str, code: int) -> None:
    with pytest.raises(DatabaseError) as raised:
        client.query(sql) if sql.startswith("SELE") else client.command(sql)
    assert error_code(raised.value) == code
    assert client.query("SELECT 1").result_rows == [(1,)]


@pytest.mark.parametrize(
    ("refusing", "code"),
    [
        ("ENGINE = MergeTree ORDER BY a SETTINGS parts_to_throw_insert = 1", 252),
        (", CONSTRAINT small CHECK a < 5) ENGINE = MergeTree ORDER BY (a", 469),
    ],
)
def test_an_insert_that_fails_while_it_is_written_is_an_error(client: Client, refusing: str, code: int) -> None:
    columns = "(a UInt32" if "CHECK" in refusing else "(a UInt32) "
    closing = ")" if "CHECK" in refusing else ""
    client.command(f"CREATE TABLE refusing {columns}{refusing}{closing}")
    rows = pa.table({"a": pa.array([7], pa.uint32())})
    with pytest.raises(DatabaseError) as raised:
        for _ in range(3):
            client.insert_arrow("refusing", rows)
    assert error_code(raised.value) == code


def test_an_insert_keeps_its_settings_clause(http: httpx.Client, client: Client, settings: Settings) -> None:
    make_table(client)
    insert = "INSERT INTO t (a) SETTINGS max_threads = 1 FORMAT CSV\n1\n2\n"
    http.post("/", params={"database": settings.database}, content=insert).raise_for_status()
    assert client.command("SELECT count() FROM t") == 2


def test_an_error_after_the_first_rows_is_not_taken_for_the_end(client: Client, http: httpx.Client) -> None:
    late = "SELECT throwIf(number = 900000), number FROM numbers(1000000) SETTINGS max_block_size = 65536"
    with pytest.raises(Exception, match="395"):
        len(client.query(late).result_rows)
    with pytest.raises(httpx.RemoteProtocolError):
        http.post("/", content=late + " FORMAT CSV")


def test_unknown_settings_databases_and_paths_are_named(http: httpx.Client) -> None:
    for url, status, code in (
        ("/?query=SELECT+1&no_such_setting=1", 404, "115"),
        ("/?query=SELECT+1&database=nowhere", 404, "81"),
        ("/?query=SELECT+1&compress=1", 501, "48"),
        ("/?query=SELECT+1&a%20b=1", 400, "36"),
        ("/elsewhere", 404, "404"),
        ("/?query=", 400, "62"),
    ):
        answer = http.get(url)
        assert (answer.status_code, answer.headers["x-clickhouse-exception-code"]) == (status, code), answer.text


def test_curl_gets_the_answers_of_a_clickhouse_server(http: httpx.Client) -> None:
    assert http.get("/ping").text == "Ok.\n"
    assert http.get("/").text == "Ok.\n"
    assert http.get("/", params={"query": "SELECT 1, 'a'"}).text == "1\ta\n"
    assert http.post("/", content="SELECT 1 AS x FORMAT JSONEachRow").text == '{"x":1}\n'
    assert http.post("/", params={"query": "SELECT {p:UInt8}", "param_p": "7"}).text == "7\n"
    assert http.post("/", params={"default_format": "JSON"}, content="SELECT 1").json()["rows"] == 1
    answer = http.post("/", content="SELECT 1")
    assert answer.headers["x-clickhouse-format"] == "TabSeparated"
    assert answer.headers["x-clickhouse-timezone"] == "UTC"


def test_rows_may_follow_the_statement_or_fill_the_body(http: httpx.Client, client: Client, settings: Settings) -> None:
    make_table(client)
    where = {"database": settings.database}
    http.post("/", params=where, content="INSERT INTO t (a, s) FORMAT CSV\n1,one\n2,two\n").raise_for_status()
    http.post("/", params=where | {"query": "INSERT INTO t (a, s) FORMAT CSV"}, content="3,three\n").raise_for_status()
    http.post("/", params=where, content="INSERT INTO t (a, s) VALUES (4, 'x;y')").raise_for_status()
    packed = gzip.compress(b"INSERT INTO t (a, s) FORMAT TSV\n5\tfive\n")
    http.post("/", params=where, content=packed, headers={"Content-Encoding": "gzip"}).raise_for_status()
    answer = http.post("/", params=where, content="INSERT INTO t (a) FORMAT CSV\n6\n")
    assert '"written_rows": "1"' in answer.headers["x-clickhouse-summary"]
    assert client.query("SELECT a, s FROM t ORDER BY a").result_rows[3:] == [(4, "x;y"), (5, "five"), (6, None)]


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "zstd", "br"])
def test_a_body_that_does_not_decompress_is_an_error(http: httpx.Client, encoding: str) -> None:
    answer = http.post("/", content=b"SELECT 1", headers={"Content-Encoding": encoding})
    assert answer.headers["x-clickhouse-exception-code"] == ("48" if encoding == "br" else "354")
    cut = lz4_compress(b"SELECT 1" * 100)[:-5]
    assert http.post("/", content=cut, headers={"Content-Encoding": "lz4"}).status_code == 500


def test_a_statement_and_a_form_have_bounds(http: httpx.Client) -> None:
    answer = http.post("/", content=b"SELECT '" + b"x" * MAX_QUERY_BYTES + b"'")
    assert answer.headers["x-clickhouse-exception-code"] == "62"
    assert "Max query size" in answer.text
    answer = http.post("/", files={"external": ("rows", b"1\n")}, data={"query": "SELECT 1"})
    assert answer.headers["x-clickhouse-exception-code"] == "48"


def test_get_only_reads_and_other_methods_are_refused(http: httpx.Client) -> None:
    answer = http.get("/", params={"query": "CREATE DATABASE made_by_a_link"})
    assert answer.headers["x-clickhouse-exception-code"] == "164"
    assert http.put("/", content="SELECT 1").headers["x-clickhouse-exception-code"] == "48"
    assert http.post("/", content=b"INSERT INTO t\xff FORMAT CSV\n1").headers["x-clickhouse-exception-code"] == "62"


def test_an_insert_without_rows_stores_none(http: httpx.Client, client: Client, settings: Settings) -> None:
    make_table(client)
    for output in ("CSV", "TSV", "Native", "RowBinary", "JSONEachRow"):
        query = {"database": settings.database, "query": f"INSERT INTO t (a) FORMAT {output}"}
        http.post("/", params=query).raise_for_status()
    assert client.command("SELECT count() FROM t") == 0


def test_limits_set_by_a_client_apply(http: httpx.Client) -> None:
    numbers = "SELECT number FROM numbers(100000) FORMAT JSON"
    cut = http.post("/", params={"max_result_rows": "1", "result_overflow_mode": "break"}, content=numbers)
    assert cut.json()["rows"] < 100_000
    assert http.post("/", params={"readonly": "1"}, content="SELECT 1 FORMAT JSON").json()["rows"] == 1


async def test_idle_uploads_do_not_block_queries(settings: Settings) -> None:
    url = urlsplit(settings.clickhouse.get_secret_value())
    head = raw_head(settings, "/", 100) + b"SELECT"
    idle = []
    for _ in range(MAX_RUNNING + 5):
        _reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(head)
        await writer.drain()
        idle.append(writer)
    async with httpx.AsyncClient(base_url=settings.clickhouse.get_secret_value(), timeout=DEADLINE_S) as http:
        assert (await http.post("/", content="SELECT 1")).text == "1\n"
    for writer in idle:
        writer.close()


async def test_queries_run_side_by_side(settings: Settings) -> None:
    """A slow query does not hold up a quick one, and more clients than places are all served."""
    async with httpx.AsyncClient(base_url=settings.clickhouse.get_secret_value(), timeout=60) as http:
        endless = asyncio.create_task(http.post("/", params={"max_execution_time": "4"}, content=ENDLESS))
        sleeps = [http.post("/", content="SELECT sleep(0.05)") for _ in range(2 * MAX_RUNNING)]
        answers = await asyncio.gather(*sleeps)
        assert {answer.status_code for answer in answers} == {200}
        assert not endless.done()
        assert (await endless).headers["x-clickhouse-exception-code"] == "159"


def test_a_client_that_disconnects_ends_its_query(settings: Settings, client: Client) -> None:
    url = urlsplit(settings.clickhouse.get_secret_value())
    mark = f"'{settings.database}'"

    def runs() -> bool:
        sql = (
            "SELECT count() FROM system.processes WHERE position(query, {mark:String}) > 0 AND query LIKE '%sipHash64%'"
        )
        return bool(client.query(sql, parameters={"mark": mark}).result_rows[0][0])

    body = f"{ENDLESS} WHERE {mark} != ''".encode()
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(raw_head(settings, "/", len(body)) + body)
        eventually(runs)
    eventually(lambda: not runs())


def test_a_client_that_disconnects_during_an_insert_leaves_nothing_running(settings: Settings, client: Client) -> None:
    make_table(client)
    url = urlsplit(settings.clickhouse.get_secret_value())
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = raw_head(settings, f"/?database={settings.database}", 1_000_000)
        connection.sendall(head + b"INSERT INTO t (a) FORMAT CSV\n1\n2\n")
    assert client.command("SELECT count() FROM t") == 0
    client.insert("t", ROWS, column_names=["a", "s", "l", "d"])
    assert client.command("SELECT count() FROM t") == 2


def test_a_large_result_is_streamed(client: Client) -> None:
    rows = 0
    with client.query_row_block_stream("SELECT number, repeat('x', 100) FROM numbers(3000000)") as stream:
        for block in stream:
            rows += len(block)
    assert rows == 3_000_000


def test_a_result_that_cannot_be_streamed_has_a_bound(http: httpx.Client) -> None:
    answer = http.post("/", content="SELECT randomPrintableASCII(1000) FROM numbers(1000000) FORMAT JSON")
    assert answer.headers["x-clickhouse-exception-code"] == "396"


def test_a_reading_request_has_its_own_settings_and_database(http: httpx.Client, settings: Settings) -> None:
    """Requests share sessions, one after another; neither a setting nor a failure of one is seen by the next."""
    ask = "SELECT getSetting('max_block_size'), getSetting('readonly'), currentDatabase() FORMAT TSV"
    for _ in range(3):
        assert http.get("/", params={"query": ask}).text == "65409\t0\tdefault\n"
        changed = {"max_block_size": "1000", "readonly": "1", "database": "system"}
        assert http.get("/", params={"query": ask, **changed}).text == "1000\t1\tsystem\n"
        assert http.get("/", params={"query": "SELECT throwIf(1) SETTINGS max_block_size = 2"}).status_code == 500

    database = {"database": f"gone_{settings.database}"}
    assert http.post("/", content=f"CREATE DATABASE {database['database']}").status_code == 200
    assert http.get("/", params={"query": "SELECT 1", **database}).text == "1\n"
    assert http.post("/", content=f"DROP DATABASE {database['database']} SYNC").status_code == 200
    refused = http.get("/", params={"query": "SELECT * FROM interactions", **database})
    assert refused.headers["x-clickhouse-exception-code"] == "81", "a kept session must notice that, too"


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_merges_have_a_lower_priority_than_queries(client: Client, stack: Stack) -> None:
    """No other thread is lowered, such as one that a merge has started."""
    make_table(client)
    for number in range(3):
        client.command(f"INSERT INTO t (a) SELECT {number}")
    client.command("OPTIMIZE TABLE t FINAL")
    found = niceness(stack.pid("clickhouse"))
    assert found.pop("MergeMutate") == {MERGE_NICENESS}
    assert {each for values in found.values() for each in values if each > 0} == set()
