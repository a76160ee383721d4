"""Access to the ClickHouse front: no web pages, no users without a password, no files and no other machines."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.embedded.clickhouse_http.policy import ENGINES, TABLE_FUNCTIONS
from deploy.embedded.clickhouse_http.users import LOCKED_SETTINGS
from deploy.embedded.stack import Stack
from tests.clickhouse_lab import Front, code_of, front_of
from tests.hostile_sql import HOSTILE, REVIEWED_SETTINGS


@pytest.fixture(scope="module")
async def front(stack: Stack) -> AsyncIterator[Front]:
    """The front that the tests of this file ask."""
    async with front_of(stack) as found:
        yield found


def test_requests_without_the_password_are_refused(front: Front, stack: Stack) -> None:
    users = {
        urlsplit(url).username: urlsplit(url).password for url in stack.stack_file().endpoints.model_dump().values()
    }
    assert len({users["tally"], users["analyst"]}) == 2
    with httpx.Client(base_url=front.address) as http:
        for name in ("default", "tally", "analyst", "root", ""):
            for password in ("", "tally", users["analyst" if name == "tally" else "tally"] or ""):
                for given in (
                    {"auth": (name, password)},
                    {"headers": {"X-ClickHouse-User": name, "X-ClickHouse-Key": password}},
                    {"params": {"user": name, "password": password}},
                    {"headers": {"Authorization": "Basic !"}},
                    {},
                ):
                    answer = http.post("/", content="SELECT 1", **given)
                    assert (answer.status_code, code_of(answer)) == (403, "516"), (name, given)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Host": "localhost:{port}"}, True),
        ({"Host": "[::1]:{port}"}, True),
        ({"Origin": "http://127.0.0.1:{port}"}, True),
        ({"Host": "rebound.example:{port}"}, False),
        ({"Host": "127.0.0.1.rebound.example"}, False),
        ({"Host": "127.0.0.1@rebound.example"}, False),
        ({"Host": ""}, False),
        ({"Origin": "https://shop.example"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://rebound.example:{port}", "Host": "rebound.example:{port}"}, False),
    ],
)
def test_requests_of_browser_pages_are_refused(front: Front, headers: dict[str, str], allowed: bool) -> None:
    """The page's name may resolve to this machine (DNS rebinding), and it may have the right password."""
    sent = {name: value.format(port=front.owner.base_url.port) for name, value in headers.items()}
    for method, url in (("GET", "/?query=SELECT+1"), ("POST", "/?query=SELECT+1"), ("GET", "/ping"), ("OPTIONS", "/")):
        answer = front.owner.request(method, url, headers=sent)
        assert (code_of(answer) == "497") is not allowed, answer.text


class Trap:
    """A folder and a port that nothing may touch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "secret.csv").write_text("a-secret-text\n")
        (folder / "schema.proto").write_text('syntax = "proto3"; message M { string a = 1; };')
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._before = self._state()

    def _state(self) -> list[tuple[str, bytes]]:
        return sorted((path.name, path.read_bytes()) for path in self.folder.iterdir() if path.is_file())

    def assert_untouched(self, what: str) -> None:
        assert self._state() == self._before, what
        with pytest.raises(BlockingIOError):
            self._listening.accept()

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    with closing(Trap(tmp_path)) as made:
        yield made


@pytest.mark.parametrize("who", ["owner", "analyst"])
def test_no_statement_reaches_files_or_other_machines(front: Front, trap: Trap, who: str) -> None:
    http = front.owner if who == "owner" else front.analyst
    here = sorted(Path().iterdir())
    for line in HOSTILE:
        sql = line.replace("{dir}", str(trap.folder)).replace("{url}", trap.url)
        answer = http.post("/", content=sql)
        assert code_of(answer) not in {"", "1002"}, sql
        assert "a-secret-text" not in answer.text, sql
        trap.assert_untouched(sql)
    assert sorted(Path().iterdir()) == here


def test_a_statement_after_rows_is_not_run(front: Front, trap: Trap) -> None:
    for rows in ("VALUES (1)", "FORMAT Values (1)", "FORMAT CSV\n1\n\n"):
        sql = f"INSERT INTO tally.schema_migrations (version) {rows}; SELECT 1 INTO OUTFILE '{trap.folder}/made.csv'"
        front.owner.post("/", content=sql)
        trap.assert_untouched(sql)


def test_no_setting_of_a_request_reaches_files_or_other_statements(front: Front) -> None:
    for http in (front.owner, front.analyst):
        for name in LOCKED_SETTINGS:
            for answer in (
                http.post("/", params={name: "x"}, content="SELECT 1"),
                http.post("/", content=f"SELECT 1 SETTINGS {name} = 'x'"),
            ):
                assert code_of(answer) in {"452", "164"} or name in {"additional_table_filters", "dialect"}, answer.text
                assert code_of(answer), "a map and a choice are parsed first"


def test_every_text_setting_is_locked_or_reviewed(front: Front) -> None:
    """A new engine version brings new settings: each may give access to files."""
    sql = "SELECT name FROM system.settings WHERE type IN ('String', 'URI', 'Map', 'Dialect')"
    named = set(front.owner.post("/", content=sql).text.split())
    assert named - REVIEWED_SETTINGS == set(LOCKED_SETTINGS)


def test_only_table_functions_that_generate_rows_are_allowed(front: Front) -> None:
    names = front.owner.post("/", content="SELECT name FROM system.table_functions").text.split()
    assert len(names) > 80
    for name in names:
        for call in (f"{name}('x')", f"`{name}` ('x', 'y')", f"{name}()"):
            answer = front.owner.post("/", content=f"SELECT * FROM {call} LIMIT 1")
            assert ("Not allowed here" in answer.text) is not (name.lower() in TABLE_FUNCTIONS) or (
                code_of(answer) == "62"  # a few have a syntax of their own
            ), call


def test_every_unlisted_engine_is_refused(front: Front) -> None:
    tables = front.owner.post("/", content="SELECT name FROM system.table_engines").text.split()
    databases = front.owner.post("/", content="SELECT name FROM system.database_engines").text.split()
    assert len(tables) > 60
    for kind, names in (("TABLE tally.bad (a Int8)", tables), ("DATABASE bad", databases)):
        for name in names:
            if not ENGINES.fullmatch(name):
                for engine in (name, f"{name}()", f"`{name}`('x')"):
                    sql = f"CREATE {kind} ENGINE = {engine}"
                    assert code_of(front.owner.post("/", content=sql)) in {"497", "62"}, sql


SPACE = st.text(" \t\n", min_size=1, max_size=3)
COMMENT = st.sampled_from(["/* ( */", "/**/", "-- x\n", "# ;\n", "/* ' */", "--`\n", "/*\n*/"])
GAP = st.lists(st.one_of(SPACE, COMMENT), max_size=4).map("".join)


def spelled(name: str) -> st.SearchStrategy[str]:
    """The name as SQL may write it: plain, in quotes, with characters escaped."""
    escaped = st.tuples(*(st.sampled_from([char, f"\\x{ord(char):02x}"]) for char in name)).map("".join)
    return st.one_of(st.just(name), escaped.map(lambda text: f"`{text}`"), escaped.map(lambda text: f'"{text}"'))


@settings(max_examples=60)
@given(name=spelled("file"), gaps=st.tuples(GAP, GAP, GAP), around=st.sampled_from(["%s", "(%s)", "SELECT (%s)"]))
def test_no_spelling_of_a_forbidden_function_is_allowed(
    front: Front, name: str, gaps: tuple[str, str, str], around: str
) -> None:
    first, second, third = gaps
    sql = around % f"{first}SELECT {second}{name}{third}('/etc/passwd')"
    answer = front.owner.post("/", content=sql)
    assert code_of(answer) in {"497", "62"}, sql
    assert "root:" not in answer.text


def test_a_literal_is_not_a_name(front: Front) -> None:
    """Text that only resembles a forbidden name is allowed."""
    for sql, rows in (
        ("SELECT 'file(''/etc/passwd'') INTO OUTFILE ; '", "file(\\'/etc/passwd\\') INTO OUTFILE ; \n"),
        ("SELECT 1 AS into_outfile -- INTO OUTFILE 'x'", "1\n"),
        ("SELECT $$file('x')$$;", "file(\\'x\\')\n"),
        ("SELECT format('{}', 'FROM INFILE')", "FROM INFILE\n"),
        ("SELECT {sql:String}", "file(1); SELECT 2\n"),
    ):
        answer = front.owner.post("/", params={"param_sql": "file(1); SELECT 2"}, content=sql)
        assert answer.text == rows, sql


def test_a_backup_is_written_only_to_its_folder(stack: Stack, front: Front) -> None:
    folder = stack.log_dir.parent / "clickhouse-backups"
    front.owner.post("/", content="BACKUP TABLE tally.topics TO File('one')").raise_for_status()
    assert (folder / "one").is_dir()
    front.owner.post("/", content="RESTORE TABLE tally.topics AS tally.again FROM File('one')").raise_for_status()
    front.owner.post("/", content="DROP TABLE tally.again").raise_for_status()
    for name in ("../two", "a/../../two", str(folder.parent / "two"), "/tmp/two"):  # noqa: S108
        assert code_of(front.owner.post("/", content=f"BACKUP TABLE tally.topics TO File('{name}')")), name
    assert not (folder.parent / "two").exists()
