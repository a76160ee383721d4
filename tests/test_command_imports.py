"""Imports of the command line: help and version load no client of a store, nothing compiled, and no settings."""

import json
import subprocess
import sys
from typing import Any

import typer

from tally.cli.app import app

LARGE = {
    *("numba", "llvmlite", "numpy", "aiokafka", "clickhouse_connect", "redis", "lz4"),
    *("fastapi", "uvicorn", "matplotlib", "chdb", "pydantic_settings", "msgspec"),
}
HELP = """
import contextlib, io, json, sys
from tally.cli import main

answers = {}
for command in json.loads(sys.argv[1]):
    sys.argv[1:] = command
    with contextlib.redirect_stdout(io.StringIO()) as answer, contextlib.suppress(SystemExit):
        main()
    answers[" ".join(command)] = answer.getvalue()
print(json.dumps([answers, sorted(sys.modules)]))
"""


def run(script: str, *arguments: str) -> Any:
    """Run a script in a process of its own and parse its answer."""
    command = [sys.executable, "-P", "-c", script, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout)


def commands() -> list[list[str]]:
    """List every command and group of commands, as typed."""
    found = []
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        found.append(path)
        waiting += [([*path, name], each) for name, each in getattr(command, "commands", {}).items()]
    return found


def test_help_and_version_load_no_large_package() -> None:
    asked = [[*command, "--help"] for command in commands()]
    assert ["dlq", "replay", "--help"] in asked
    answers, loaded = run(HELP, json.dumps([["--version"], *asked]))
    assert answers.pop("--version").startswith("tally 0.")
    assert [command for command, answer in answers.items() if "Usage: tally" not in answer] == []
    assert LARGE & set(loaded) == set()


def test_public_names_are_imported_on_first_use() -> None:
    loaded = run("import json, sys, tally; print(json.dumps(sorted(sys.modules)))")
    assert (LARGE | {"pydantic"}) & set(loaded) == set()


def test_a_producer_loads_only_the_kafka_client_and_no_compiled_code() -> None:
    loaded = set(run("import json, sys; from tally import Producer; print(json.dumps(sorted(sys.modules)))"))
    assert LARGE & loaded == {"aiokafka", "pydantic_settings", "msgspec"}
    assert {"kernels", "consumers", "readers", "typer", "rich"} & loaded == set()
