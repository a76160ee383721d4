"""Commands in this process: their errors, their help and their exit codes."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from runtime.errors import Fatal, SettingsError
from tests.cli_lab import command


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["lookup", "int_1"], 1, "is not an interaction id"),
        (["lookup", "int_01900000000070008000000000000000"], SettingsError.exit_code, "TALLY_CLICKHOUSE is not set"),
        (["emit", "/nowhere.jsonl"], SettingsError.exit_code, "TALLY_KAFKA is not set"),
        (["status"], SettingsError.exit_code, "start one with `tally up`"),
        (["init"], SettingsError.exit_code, "TALLY_KAFKA is not set"),
        (["import", "open-bandit", "--policy", "best"], 2, "is not one of 'random'"),
        (["consume", "--workers", "0"], 2, "--workers"),
        (["report", "types", "--hours", "1e300"], 2, "--hours"),
        (["serve", "writer"], 2, "is not one of 'collector'"),
        (["serve"], SettingsError.exit_code, "TALLY_CLICKHOUSE is not set"),
        (["tail", "--verdict", "lost"], 2, "--verdict"),
        (["sql", "SELECT 1"], SettingsError.exit_code, "TALLY_CLICKHOUSE is not set"),
        (["connect"], SettingsError.exit_code, "TALLY_CLICKHOUSE is not set"),
        (["keys", "create", "x", "--scopes", "write,fly"], 2, "--scopes"),
        (["keys", "create", "x", "--namespaces", "a,,b"], 2, "--namespaces"),
        (["simulate", "--rate", "inf"], 2, "--rate"),
        (["simulate", "--namespace", "x" * 129], 2, "1 to 128 bytes"),
        (["simulate", "--lift", "dense+5%"], 2, "--lift dense+5%: write the retriever"),
        (["simulate", "--lift", "sparse=+5%"], 2, "'sparse' is not a retriever"),
        (["simulate", "--lift", "dense=-200%"], 2, "lift of dense"),
        (["simulate", "--lift", "dense=1%", "--lift", "dense=2%"], 2, "--lift names dense twice"),
        (["simulate", "--days", "1", "--rate", "0"], 2, "--rate 0 has no meaning with --days"),
        (["simulate", "--days", "1", "--rate", "2000"], 2, "rate of a backfill"),
        (["simulate", "--days", "1", "--for", "3"], 2, "--for has no meaning with --days"),
        (["simulate", "--days", "1", "--late", "0.1"], 2, "--late has no meaning with --days"),
        (["simulate", "--rate", "0", "--late", "0.1"], 2, "--late has no meaning with --rate 0"),
        (["simulate", "--rate", "5001"], 2, "--rate"),
        (["simulate", "--rate", "0.0", "--shuffle", "2"], 2, "--shuffle"),
        (["simulate", "--truth", "/nowhere/truth.json"], 2, "--truth /nowhere/truth.json: No such file"),
    ],
)
def test_errors_name_the_setting_to_change(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    done = command(*arguments, "--data-dir", str(tmp_path))
    assert done.returncode == code
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("up", "init", "consume", "serve", "emit", "simulate", "import open-bandit", "lookup", "tail", "report"),
        "evaluate policy",
        *("status", "audit", "sql", "connect", "replay", "dlq list", "dlq show", "dlq replay"),
        *("keys create", "keys list", "keys revoke", "keys token", "learn judgments"),
        *("learn config get", "learn config set", "learn config delete", "learn config history"),
        *("learn weight-history", "learn session-use"),
        *("learn whatif",),
        *("learn weights show", "learn weights explain"),
        *("evaluate score", "evaluate gate", "evaluate dataset generate", "evaluate dataset create"),
        *("evaluate dataset list", "evaluate dataset show", "evaluate dataset delete"),
    ],
)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = command(*name.split(), "--help")
    assert done.returncode == 0
    help_lines = [line.strip() for line in done.stdout.splitlines()]
    first = help_lines[help_lines.index("Examples:") + 1]
    assert re.match(r"([A-Z_]+=\S+ )*(tally|echo) ", first), first
    assert "; tally" not in done.stdout, "one example a line"
    assert command(*name.split(), "-h") == done


@pytest.mark.parametrize(
    "group", ["", "dlq", "evaluate", "evaluate dataset", "keys", "import", "learn", "learn weights", "topic"]
)
def test_every_group_has_help_under_both_names(group: str) -> None:
    assert command(*group.split(), "-h") == command(*group.split(), "--help")
    assert command(*group.split(), "-h").returncode == 0


def test_the_version_is_printed() -> None:
    assert command("--version") == (0, f"tally {version('tally-server')}\n", "")


def test_fatal_and_settings_errors_have_exit_codes_of_their_own() -> None:
    assert len({1, Fatal.exit_code, SettingsError.exit_code}) == 3


@pytest.mark.parametrize("line", ["evaluate dataset show", "report overview --where", "lookup"])
def test_an_argument_in_another_encoding_is_refused(line: str) -> None:
    done = command(*line.split(), "\udcff")
    assert done.returncode == 2
    assert r"\udcff' is not valid UTF-8" in done.stderr
