"""`tally sql`: read-only statements as the analyst, in each format, and their errors."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from deploy.embedded.stack import Stack
from runtime.errors import Fatal, SettingsError, StatementRefused, Unavailable
from runtime.settings import with_user
from tally.cli import INTERRUPTED
from tally.cli.sql import _as_text, _read_row
from tests.chaos.proxy import proxy_to
from tests.cli_lab import TALLY, CommandResult, command, environment, names_in
from tests.clickhouse_lab import front_of
from tests.lab import Lab, at_port
from tests.terminal import Terminal
from tests.waiting import eventually_async

Sql = Callable[..., CommandResult]


@pytest.fixture(scope="module")
async def variables(stack: Stack) -> AsyncIterator[dict[str, str]]:
    """The environment of commands that find the stack's analyst."""
    async with front_of(stack):
        analyst = SecretStr(stack.stack_file().endpoints.analyst)
        yield environment(stack.settings().model_copy(update={"analyst": analyst}))


@pytest.fixture
def sql(variables: dict[str, str]) -> Sql:
    """Run `tally sql` in this process."""

    def run(*arguments: str, given: str = "") -> CommandResult:
        return command("sql", *arguments, given=given, env=variables)

    return run


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        ("csv", '"a","b"\n1,"x"\n'),
        ("tsv", "a\tb\n1\tx\n"),
        ("jsonl", '{"a":1,"b":"x"}\n'),
        ("markdown", "| a | b |\n|-:|:-|\n| 1 | x |\n"),
    ],
)
def test_a_result_has_the_format_that_was_asked_for(sql: Sql, form: str, shown: str) -> None:
    assert sql("SELECT 1 AS a, 'x' AS b", "--format", form) == (0, shown, "")


def test_without_a_terminal_the_format_is_tsv(sql: Sql) -> None:
    assert sql("SELECT 1 AS a, 'x' AS b;").stdout == "a\tb\n1\tx\n"


def test_a_format_in_the_statement_is_kept(sql: Sql) -> None:
    assert sql("SELECT 1 AS a FORMAT CSV", "--format", "table").stdout == "1\n"


def test_json_is_one_document(sql: Sql) -> None:
    assert json.loads(sql("SELECT 1 AS a", "--json").stdout)["data"] == [{"a": 1}]


def test_a_statement_is_read_from_standard_input_with_parameters(sql: Sql) -> None:
    hostile = "a\tb\\c'é\n{x:String}"
    arguments = ("-", "--format", "jsonl", "--param", f"text={hostile}", "--param", "number=7")
    done = sql(*arguments, given="SELECT {text:String} AS text, {number:UInt8} AS number")
    assert json.loads(done.stdout) == {"text": hostile, "number": 7}


def test_the_ending_of_a_file_chooses_the_format(sql: Sql, tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    done = sql("SELECT number FROM numbers(1000)", "--output", str(path))
    assert (done.returncode, done.stdout) == (0, "")
    assert f"{path.stat().st_size:,} bytes written to {path}" in done.stderr
    assert pyarrow.parquet.read_table(path).num_rows == 1_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_statement_leaves_the_file_unchanged(sql: Sql, tmp_path: Path) -> None:
    """The error occurs after a megabyte of rows was sent with the status 200."""
    path = tmp_path / "numbers.jsonl"
    path.write_text("before")
    late = "SELECT throwIf(number = 3000000, 'too late') FROM numbers(4000000)"
    done = sql(late, "--output", str(path), "--force")
    assert (done.returncode, path.read_text()) == (StatementRefused.exit_code, "before")
    assert done.stderr.startswith("error: ClickHouse refused the statement: too late")
    assert list(tmp_path.iterdir()) == [path]
    to_a_pipe = sql(late, "--format", "jsonl")
    assert to_a_pipe.returncode == StatementRefused.exit_code
    assert "__exception__" not in to_a_pipe.stdout
    assert to_a_pipe.stdout.endswith("}\n")


@pytest.mark.parametrize("statement", ["DESCRIBE TABLE executions", "SELECT * FROM results WHERE namespace = 'shop'"])
async def test_a_view_that_is_read_without_its_parameters_is_explained(lab: Lab, statement: str) -> None:
    done = await asyncio.to_thread(command, "sql", statement, env=environment(lab.settings))
    assert done.returncode == StatementRefused.exit_code
    assert "are views with parameters: SELECT * FROM executions(namespace = 'default', since = now()" in done.stderr


def test_an_existing_file_is_replaced_only_by_force(sql: Sql, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("before")
    refused = sql("SELECT 1 AS a", "--output", str(path))
    assert (refused.returncode, path.read_text()) == (1, "before")
    assert "--force replaces it" in refused.stderr
    assert sql("SELECT 1 AS a", "--output", str(path), "--force").returncode == 0
    assert path.read_text() == '"a"\n1\n'
    assert sql("SELECT 1 AS a", "--output", "-").stdout == "a\n1\n"


async def test_ctrl_c_ends_a_statement_and_leaves_no_file(variables: dict[str, str], tmp_path: Path) -> None:
    url = SecretStr(variables["TALLY_ANALYST"])
    async with proxy_to(urlsplit(url.get_secret_value()).port or 0) as proxy:
        proxy.delay_s = 0.01
        there = variables | {"TALLY_ANALYST": at_port(url, proxy.port).get_secret_value()}
        statement = "SELECT number FROM numbers(100000000)"
        process = await asyncio.create_subprocess_exec(
            *(TALLY, "sql", statement, "--output", str(tmp_path / "numbers.jsonl")), env=there, stderr=subprocess.PIPE
        )

        async def has_begun() -> bool:
            return names_in(tmp_path) != []

        await eventually_async(has_begun)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err) == (INTERRUPTED, b"")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE interactions",
        "INSERT INTO interactions SELECT * FROM interactions",
        "ALTER TABLE interactions DELETE WHERE 1",
        "SELECT * FROM api_keys",
        "SELECT * FROM system.processes",
        "SELECT * FROM file('/etc/passwd')",
        "SET readonly = 0",
    ],
)
def test_a_statement_that_does_more_than_read_is_refused(sql: Sql, statement: str) -> None:
    done = sql(statement)
    assert (done.returncode, done.stdout) == (StatementRefused.exit_code, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_the_user_of_tally_clickhouse_reads_only_too(variables: dict[str, str]) -> None:
    """Where no analyst is set, the user may write, and ClickHouse runs the statement as read-only."""
    done = command("sql", "DROP TABLE interactions", env=variables | {"TALLY_ANALYST": ""})
    assert "only statements that read are run: SELECT" in done.stderr
    counted = command("sql", "SELECT count() FROM interactions", env=variables | {"TALLY_ANALYST": ""})
    assert counted.stdout == "count()\n0\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["SELECT nope FROM interactions"], 1, "Unknown expression identifier `nope`"),
        (["SELECT {a:UInt8}", "--param", "a=x"], 1, "a"),
        (["SELECT 1", "--param", "a"], 2, "'a' is not name=value"),
        (["SELECT 1", "--param", "a-b=1"], 2, "'a-b=1' is not name=value"),
        ([" "], 2, "is empty"),
        (["SELECT 1", "--output", "numbers"], 2, "needs --format, or an ending of .csv"),
        (["SELECT 1", "--output", "/nowhere/x.csv"], 1, "cannot write /nowhere/x.csv: there is no folder /nowhere"),
        (["SELECT 1", "--json", "--format", "csv"], 2, "contradicts --format csv"),
        (["SELECT 1", "--output", "/dev/null", "--format", "csv"], 1, "/dev/null is not a regular file"),
        (["SELECT '\udcff'"], 2, "is not valid UTF-8"),
        (["SELECT 1 -- " + "x" * 70_000], 1, "more than 65,536 bytes"),
    ],
)
def test_an_error_is_one_line_without_secrets(
    sql: Sql, variables: dict[str, str], arguments: list[str], code: int, words: str
) -> None:
    done = sql(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in " ".join(done.stderr.split())
    assert "version" not in done.stderr
    assert variables["TALLY_ANALYST"] not in done.stderr


def test_credentials_and_addresses_are_named_by_their_setting(variables: dict[str, str]) -> None:
    for url, error, words in (
        (with_user(variables["TALLY_ANALYST"], "analyst", "a-wrong-one"), Fatal, "refused the credentials in"),
        ("http://analyst:secret@127.0.0.1:9", Unavailable, "does not answer: Connection refused"),
        ("ftp://analyst:secret@127.0.0.1", SettingsError, "write http[s]://host:port"),
        ("http://analyst:secret@a..b:8123", SettingsError, "write http[s]://host:port"),
    ):
        done = command("sql", "SELECT 1", env=variables | {"TALLY_ANALYST": url})
        assert done.returncode == error.exit_code
        assert "TALLY_ANALYST" in done.stderr
        assert words in done.stderr
        assert "secret" not in done.stderr
        assert "a-wrong-one" not in done.stderr


async def test_a_table_on_a_terminal_is_bounded_and_escaped(variables: dict[str, str]) -> None:
    statement = "SELECT number AS n, 'a\\x1b[31mb' AS text, 1234567890123456789::Int64 AS id FROM numbers(100)"
    await asyncio.to_thread(_check_table, statement, variables)


def _check_table(statement: str, variables: dict[str, str]) -> None:
    for more, found in (([], 50), (["--rows", "7"], 7), (["--rows", "200"], 100)):
        with Terminal([TALLY, "sql", statement, *more], variables | {"TERM": "xterm"}) as terminal:
            assert terminal.end() == 0, terminal.output
        assert terminal.output.count("1234567890123456789") == found
        assert terminal.output.count("a\\x1b[31mb") == found
        hint = f"the first {found} rows: more with --rows, all of them with --format csv"
        assert (hint in terminal.output) == (found < 100), terminal.output
    for more, words in ((["--format", "csv"], "a\\x1b[31mb"), (["--format", "parquet"], "parquet is binary")):
        with Terminal([TALLY, "sql", statement, *more], variables | {"TERM": "xterm"}) as terminal:
            terminal.end()
        assert words in " ".join(terminal.output.split())


Texts = st.text().filter(lambda text: "NULL" not in text)
Values = st.recursive(
    st.none() | st.booleans() | st.integers() | Texts,
    lambda inner: st.lists(inner) | st.dictionaries(Texts, inner),
)


@given(Values)
def test_a_shown_value_is_the_value_as_json(value: object) -> None:
    line = json.dumps({"a": value}).encode() + b"\n"
    ((_, read),) = _read_row(line)
    shown = json.dumps(read) if type(read) is str else _as_text(read)
    assert json.loads(shown.replace("NULL", "null")) == value


def test_numbers_keep_their_digits() -> None:
    row = _read_row(b'{"a": 1.50, "a": [12345678901234567890.10]}')
    assert [_as_text(value) for _, value in row] == ["1.50", "[12345678901234567890.10]"]
