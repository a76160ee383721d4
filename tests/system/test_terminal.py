"""Commands as a person at a terminal meets them: live displays, Ctrl-C, and their last line."""

import json
import re
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tally.cli import INTERRUPTED
from tests.cli_lab import CLEAN, TALLY, Running
from tests.terminal import CTRL_C, Terminal
from tests.waiting import eventually

TERMS = pytest.mark.parametrize("term", ["dumb", "xterm-256color"])


def at_terminal(term: str, data_dir: Path, *arguments: str) -> Terminal:
    """A command at a terminal of this kind."""
    return Terminal([TALLY, *arguments, "--data-dir", str(data_dir)], CLEAN | {"TERM": term})


UNDER_A_DISPLAY = """
import sys
from rich.live import Live
from tally.cli.output import err, out, say

with Live("a display", console=err):
    say("a remark")
    out.print("an answer")
    print("of a library", file=sys.stderr)
say("the end")
"""


@TERMS
def test_output_under_a_live_display_is_shown_once(term: str) -> None:
    with Terminal([sys.executable, "-c", UNDER_A_DISPLAY], CLEAN | {"TERM": term}, deadline_s=30) as terminal:
        assert terminal.end() == 0, terminal.output
        assert terminal.output.endswith("the end\n")
        for line in ("a remark", "an answer", "of a library"):
            assert terminal.output.count(line) == 1


A_TABLE = """
from tally.cli.output import out, table

letters = table("origin", "appended", "namespace", "reason", "field", "message", title="interactions.dead-letters")
when, why = "2026-11-22T14:30:00.123Z", "was 'seven', which is no whole number of 0 or more"
letters.add_row("interactions/6/4152", when, "default", "wrong_type", "position", why)
out.print(letters)
"""


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_a_table_on_a_terminal_breaks_no_word(columns: int) -> None:
    command = [sys.executable, "-c", A_TABLE]
    with Terminal(command, CLEAN | {"TERM": "xterm"}, columns=columns, deadline_s=30) as terminal:
        assert terminal.end() == 0, terminal.output
        words = ("interactions/6/4152", "2026-11-22T14:30:00.123Z", "namespace", "wrong_type", "position", "'seven',")
        assert not [word for word in words if word not in terminal.output], terminal.output
        assert max(map(len, terminal.output.splitlines())) <= columns
        assert ("━" in terminal.output) == (columns >= 100), terminal.output


A_REPORT = """
from tally.cli.output import out, table

report = table("day", "executions", "users", "ctr", "mrr", title="Overview", keep=("day", "ctr"))
report.add_row("2026-11-22", "123,456,789", "98,765,432", "0.123456", "0.654321")
out.print(report)
"""


@pytest.mark.parametrize(
    ("columns", "left_out"),
    [(80, ""), (60, "mrr"), (47, "users, mrr"), (36, "executions, users, mrr"), (20, "executions, users, ctr, mrr")],
)
def test_a_report_on_a_narrow_terminal_leaves_out_columns_and_names_them(columns: int, left_out: str) -> None:
    command = [sys.executable, "-c", A_REPORT]
    with Terminal(command, CLEAN | {"TERM": "xterm"}, columns=columns, deadline_s=30) as terminal:
        assert terminal.end() == 0, terminal.output
    shown = " ".join(terminal.output.split())
    values = {"day": "2026-11-22", "executions": "123,456,789", "users": "98,765,432", "ctr": "0.123456"}
    for name, value in (values | {"mrr": "0.654321"}).items():
        assert (value in shown) == (name not in left_out.split(", ")), (name, terminal.output)
    assert (f"left out: {left_out}. --json or a wider terminal shows them" in shown) == bool(left_out)
    assert max(map(len, terminal.output.splitlines())) <= columns


INTERVALS = """
from tally.cli.output import out, table

report = table("day", "ctr", "mrr", keep=("day", "ctr"), right=True)
report.add_row("2026-11-22", "48.08% (44.85 to 51.32)", "0.3336 (0.3063 to 0.3609)")
out.print(report)
"""


def test_a_number_and_its_interval_stay_on_one_line() -> None:
    with Terminal([sys.executable, "-c", INTERVALS], CLEAN | {"TERM": "xterm"}, columns=60, deadline_s=30) as terminal:
        assert terminal.end() == 0, terminal.output
    assert "48.08% (44.85 to 51.32) │" in terminal.output
    assert "left out: mrr" in terminal.output


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Run one stack for the commands of this file."""
    running = Running(tmp_path_factory.mktemp("terminal") / "data", "--no-demo", "--workers", "1")
    try:
        eventually(running.is_ready)
        running.json("simulate", "--events", "20", "--rate", "0")
        yield running
    finally:
        running.process.terminate()
        assert running.process.wait(60) == 0, running.output()


@TERMS
@pytest.mark.parametrize(
    ("command", "last"),
    [
        ("simulate --for 1 --rate 50", " duplicates, 0 rejected\n"),
        ("import open-bandit --limit 100", " duplicates, 0 rejected\n"),
        ("replay --into again_{term}", " outcomes are the same, 0 are not\n"),
        ("dlq replay --dry-run", "0 letters: 0 valid now, 0 still rejected\n"),
        ("status", " lag 0\n"),
    ],
)
def test_a_command_at_a_terminal_ends_with_its_answer(up: Running, term: str, command: str, last: str) -> None:
    arguments = command.format(term=term.partition("-")[0]).split()
    with at_terminal(term, up.data_dir, *arguments) as terminal:
        assert terminal.end() == 0, terminal.output
        assert terminal.output.endswith(last), terminal.output
        assert "Traceback" not in terminal.output


def test_a_tail_at_a_terminal_has_a_line_for_each_event(up: Running) -> None:
    """Each is as wide as the terminal at most."""
    with at_terminal("xterm", up.data_dir, "tail", "--type", "purchase") as terminal:
        event = {"feature_id": "doc-\x1b[31m", "interaction_type": ["purchase"], "position": 7}
        more = {"query_snapshot": {"text": "shoes " * 50}, "retriever_id": "hybrid"}

        def is_shown() -> bool:
            up.tally("emit", "-", given=json.dumps(event | more | {"execution_id": str(uuid.uuid4())}))
            return terminal.shows("purchase", wait_s=1)

        eventually(is_shown)
        terminal.type(CTRL_C)
        assert terminal.end() == INTERRUPTED, terminal.output
        lines = [line for line in terminal.output.splitlines() if "purchase" in line]
        assert lines
        for line in lines:
            assert re.fullmatch(
                r"\d\d:\d\d:\d\d\.\d{3} stored    purchase   \"shoes .*… hybrid doc-\\x1b\[31m #7 [0-9a-f]{8}", line
            ), line
            assert len(line) <= 80


def test_up_at_a_terminal_ends_by_itself(tmp_path: Path) -> None:
    short = ("--for", "2", "--rate", "100", "--workers", "1", "--backfill-days", "1")
    with at_terminal("dumb", tmp_path / "data", "up", *short) as terminal:
        assert terminal.end() == 0, terminal.output
        assert "Traceback" not in terminal.output
        assert re.search(r"simulated \d+ events in 2 s: ", terminal.output)
        assert "stopping" in terminal.output
        assert re.search(r"this run: \d\d,\d\d\d stored", terminal.output.partition("stopping")[2])


def test_ctrl_c_at_a_terminal_ends_up_in_order(tmp_path: Path) -> None:
    with at_terminal("xterm-256color", tmp_path / "data", "up", "--no-demo", "--workers", "1") as terminal:
        terminal.until("events/s")
        terminal.type(CTRL_C)
        assert terminal.end() == INTERRUPTED, terminal.output
        assert "this run: 0 stored, 0 duplicates, 0 rejected, lag 0\n" in terminal.output
        data = tmp_path / "data"
        assert f"stopped. The data stays in {data} for the next start; rm -r {data} deletes it\n" in terminal.output
        assert "Traceback" not in terminal.output
