"""Output of commands, for any reader, a reader that stops, and any content of events."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from runtime.errors import Unavailable
from runtime.settings import Settings
from runtime.text import printable
from tally.cli import INTERRUPTED
from tally.cli.output import cell, counted, out, table
from tests.cli_lab import CLEAN, TALLY, command, environment
from tests.lab import Lab

Capture = pytest.CaptureFixture[str]

CAPACITY = [TALLY, "capacity", "10000"]
HOSTILE = "doc\x1b[31m\x9b2J\u202e\r\x07\u2028\ue000"
ESCAPED = r"doc\x1b[31m\x9b2J\u202e\r\x07\u2028\ue000"


@given(st.text())
def test_printable_text_has_no_character_that_acts_on_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not any(each in shown for each in "\x1b\x9b\r\n\x07\x08\u202e\u2066\u2028")
    assert printable(shown) == shown
    shown.encode()


def test_ordinary_text_is_unchanged() -> None:
    text = "Grüße, 東京, می‌خواهم, 👩‍💻, 1\u00a0000 €"
    assert printable(text) == text


def test_everything_a_command_prints_is_escaped(capsys: Capture) -> None:
    shown = table("name")
    shown.add_row(cell(HOSTILE))
    out.print(shown)
    out.print(Text(HOSTILE.replace("\r", "").replace("\x07", "")))
    out.print_json(json.dumps({"name": HOSTILE}))
    printed = capsys.readouterr().out
    assert ESCAPED in printed
    assert not {"\x1b", "\x9b", "\u202e", "\r"} & set(printed)


def test_a_table_truncates_no_value(capsys: Capture) -> None:
    shown = table(*"abcdefgh")
    shown.add_row(*["x" * 40] * 8)
    out.print(shown)
    assert capsys.readouterr().out.count("x") == 320


def test_a_table_in_a_file_folds_nothing(capsys: Capture) -> None:
    values = ["interactions/6/4152", "a message of many words " * 12, "x" * 300]
    shown = table("origin", "message", "value", title="Letters")
    shown.add_row(*values)
    out.print(shown)
    out.print(f"a line {'of many words ' * 20}", highlight=False)
    lines = capsys.readouterr().out.splitlines()
    assert all(value.strip() in lines[-3] for value in values)
    assert lines[-1].count("many") == 20


@pytest.mark.parametrize(("number", "words"), [(0, "0 letters"), (1, "1 letter"), (1_234, "1,234 letters")])
def test_one_is_not_a_plural(number: int, words: str) -> None:
    assert counted(number, "letter") == words


def finished(
    arguments: Sequence[str], *, stdout: Any = subprocess.PIPE, **more: Any
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        arguments, check=False, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, **{"env": CLEAN, **more}
    )


@contextmanager
def pipe_without_reader() -> Iterator[int]:
    """The writing end of a pipe whose reader is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def test_a_closed_standard_output_is_an_error_of_one_line() -> None:
    for more in ((), ("--json",)):
        done = finished(["sh", "-c", '"$@" >&-', "sh", *CAPACITY, *more])
        assert (done.returncode, done.stderr) == (1, "error: cannot write to standard output: it is closed\n")


def test_a_full_disk_is_an_error_of_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        for more in ((), ("--json",)):
            done = finished([*CAPACITY, *more], stdout=full)
            assert (done.returncode, done.stderr) == (
                1,
                "error: cannot write to standard output: No space left on device\n",
            )


@pytest.mark.parametrize("name", ["--help", "emit --help", "dlq --help"])
def test_help_that_cannot_be_printed_is_an_error_of_one_line(name: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = finished([TALLY, *name.split()], stdout=full)
    assert (done.returncode, done.stderr) == (1, "error: cannot write to standard output: No space left on device\n")
    with pipe_without_reader() as stdout:
        done = finished([TALLY, *name.split()], stdout=stdout)
    assert (done.returncode, done.stderr) == (141, "error: cannot write to standard output: Broken pipe\n")


def test_a_broken_pipe_ends_a_command_with_exit_code_141() -> None:
    for more in ((), ("--json",)):
        with pipe_without_reader() as stdout:
            done = finished([*CAPACITY, *more], stdout=stdout)
        assert (done.returncode, done.stderr) == (141, "error: cannot write to standard output: Broken pipe\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_a_character_shows_its_number(encoding: str) -> None:
    script = "from tally.cli.output import out; out.print('Grüße 東京', highlight=False)"
    done = finished([sys.executable, "-c", script], env=CLEAN | {"PYTHONIOENCODING": encoding}, encoding=encoding)
    wanted = "Grüße 東京".encode(encoding, "backslashreplace").decode(encoding)
    assert (done.returncode, done.stdout.strip()) == (0, wanted)


class _Interrupting:
    """An importer that is interrupted at one module."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        if name == "tally.cli.app":
            raise KeyboardInterrupt
        return None


def test_ctrl_c_while_modules_are_imported_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tally.cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Interrupting(), *sys.meta_path])
    assert command("status") == (INTERRUPTED, "", "")


def test_the_command_line_can_answer_ctrl_c_before_it_imports_anything_large() -> None:
    script = "import sys, tally.cli; print([each for each in ('aiokafka', 'pydantic', 'rich') if each in sys.modules])"
    assert finished([sys.executable, "-c", script]).stdout == "[]\n"


async def test_ctrl_c_ends_emit_while_it_waits_for_a_line(lab: Lab) -> None:
    running = subprocess.Popen(  # noqa: ASYNC220
        [TALLY, "emit", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(lab.settings),
        text=True,
    )
    assert running.stdin and running.stdout and running.stderr
    running.stdin.write('{"feature_id": "doc-1", "interaction_type": ["click"], "position": 0}\n')
    running.stdin.flush()
    assert running.stdout.readline().startswith("int_"), "emitted while the input is still open"
    running.send_signal(signal.SIGINT)
    assert running.wait(120) == 130
    assert "Traceback" not in running.stderr.read()
    running.stdin.close()


async def test_emit_from_a_closed_standard_input_is_an_error_of_one_line(lab: Lab) -> None:
    done = finished(["sh", "-c", '"$@" <&-', "sh", TALLY, "emit", "-"], env=environment(lab.settings))
    assert (done.returncode, done.stderr) == (1, "error: cannot read from standard input: it is closed\n")


async def test_a_dead_letter_is_shown_without_library_messages(lab: Lab) -> None:
    place = await lab.put(b"\x1b[31mno JSON")
    await lab.put(b"nor this")
    await lab.drain()
    origin = f"{lab.settings.topic}/{place.partition}/{place.offset}"
    done = await asyncio.to_thread(command, "dlq", "show", origin, env=environment(lab.settings))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["value"] == "\x1b[31mno JSON"
    with pipe_without_reader() as stdout:
        unread = finished([TALLY, "dlq", "list", "--json"], stdout=stdout, env=environment(lab.settings))
    assert (unread.returncode, unread.stderr) == (141, "error: cannot write to standard output: Broken pipe\n")


async def test_clickhouse_that_does_not_answer_is_one_line_with_the_setting(settings: Settings) -> None:
    """Nothing listens on port 9 of this host."""
    away = environment(settings) | {"TALLY_CLICKHOUSE": "http://tally:secret@127.0.0.1:9"}
    assert await asyncio.to_thread(command, "report", "verdicts", env=away) == (
        Unavailable.exit_code,
        "",
        "error: ClickHouse (TALLY_CLICKHOUSE) does not answer: Connection refused\n",
    )
