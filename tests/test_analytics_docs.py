"""Every command, statement and call of docs/analytics.md runs on simulated searches, and its answer has rows."""

import asyncio
import re
import shlex
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.embedded.stack import Stack
from schemas.analytics.catalogue import REPORTS
from tests.cli_lab import TALLY, CommandResult, command, environment
from tests.http_lab import KEY, served, with_key
from tests.lab import Lab, click, lab_of, settings_of_its_own
from tests.test_docs import blocks

PAGE = "docs/analytics.md"
COMMANDS = [block.partition("\n") for text in blocks(PAGE, "console") for block in text.split("$ tally ")[1:]]
"""Arguments and shown output of each command."""


@pytest.fixture(scope="module")
async def searches(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """A simulated week with faults of the tracking, and an event with nested metadata."""
    folder = tmp_path_factory.mktemp("analytics")
    async with lab_of(settings_of_its_own(stack, folder)) as lab:
        week = ("--days", "7", "--rate", "0.02", "--users", "300", "--seed", "1", "--bad", "0.05", "--wait", "0")
        await asyncio.to_thread(subprocess.run, [TALLY, "simulate", *week], check=True, env=environment(lab.settings))
        await lab.emit(click(metadata={"client": {"os": "tizen"}}))
        await lab.drain()
        yield lab
        await lab.database.command(f"DROP DATABASE {lab.settings.database}")


async def tally(lab: Lab, *arguments: str, given: str = "") -> CommandResult:
    """Run a command that must succeed."""
    done = await asyncio.to_thread(command, *arguments, given=given, env=environment(lab.settings))
    assert done.returncode == 0, done.stderr
    return done


async def own_session(lab: Lab) -> str:
    ((session,),) = await lab.rows("SELECT max(session_id) FROM events")
    return str(session)


@pytest.mark.parametrize(("line", "shown"), [(line, shown) for line, _, shown in COMMANDS])
async def test_a_command_has_rows_and_the_columns_that_the_page_shows(
    searches: Lab, line: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session = await own_session(searches)
    done = await tally(searches, *shlex.split(re.sub(r"journey \S+", f"journey {session}", line)))
    files = re.findall(r"--(?:output|plot) (\S+)", line)
    assert all((tmp_path / name).stat().st_size > 500 for name in files), line
    columns, answer = (re.findall(r"[┃│] +(\w+) +(?=[┃│])", text.replace("│", "┃")) for text in (shown, done.stdout))
    assert files or "│" in done.stdout, done.stderr
    assert {name for name in columns if f"┃ {name} " in shown} <= set(answer), done.stdout


@pytest.mark.parametrize("statement", blocks(PAGE, "sql"))
async def test_a_statement_has_rows(searches: Lab, statement: str) -> None:
    done = await tally(searches, "sql", "-", "--format", "jsonl", given=statement)
    rows = done.stdout.splitlines()
    assert len(rows) > 1
    if "'client', 'os'" in statement:
        assert any('"tizen"' in row for row in rows)


async def test_the_calls_answer(searches: Lab) -> None:
    async with served(with_key(searches.settings)) as url:
        (calls,) = blocks(PAGE, "bash")
        text = (
            calls.replace("http://127.0.0.1:8080", url).replace("your-key", KEY).replace("curl -s", "curl -sS --fail")
        )
        run = ["/bin/sh", "-ec", text]
        done = await asyncio.to_thread(subprocess.run, run, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"report":"overview"' in done.stdout
    assert done.stdout.count('"rows":[{') == 2


def test_the_page_shows_each_report() -> None:
    assert {line.split()[1] for line, _, _ in COMMANDS if line.startswith("report ")} == set(REPORTS)
