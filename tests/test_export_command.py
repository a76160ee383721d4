"""`tally export interactions`: complete files or none, and errors that name the option."""

import asyncio
import hashlib
import json
import re
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.export_format import EXPORT_FORMATS
from runtime.settings import Settings
from tally.cli.streams import BROKEN_PIPE
from tally.export_rows import counter_of
from tests.chaos.proxy import proxy_to
from tests.cli_lab import TALLY, CommandResult, command, environment, names_in
from tests.export_lab import TEXT, export_bytes, insert_many, request_of
from tests.lab import Lab, at_port, click
from tests.terminal import Terminal
from tests.waiting import eventually_async


async def export(settings: Settings, *options: str) -> CommandResult:
    return await asyncio.to_thread(command, "export", "interactions", *options, env=environment(settings))


async def as_process(settings: Settings, *options: str) -> "asyncio.subprocess.Process":
    """The command as a process of its own, with pipes."""
    return await asyncio.create_subprocess_exec(
        TALLY,
        "export",
        "interactions",
        *options,
        env=environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("output", EXPORT_FORMATS)
async def test_a_file_has_the_export_and_the_summary_describes_it(lab: Lab, tmp_path: Path, output: Any) -> None:
    await insert_many(lab.database, 3_000)
    await lab.emit(click("hostile", metadata={"text": TEXT}, user_id=TEXT))
    await lab.drain()
    file = tmp_path / f"events.{output}"
    done = await export(lab.settings, "--output", str(file), "--json")
    assert done.returncode == 0, done.stderr
    data = file.read_bytes()
    assert data == await export_bytes(lab.database, request_of(output))
    summary = json.loads(done.stdout)
    assert summary.pop("seconds") > 0
    assert summary == {
        "rows": 3_001,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "file": str(file),
    }
    assert names_in(tmp_path) == [file.name]


async def test_options_choose_records(lab: Lab, tmp_path: Path) -> None:
    await insert_many(lab.database, 100)
    file = tmp_path / "events"
    range_ = ("--since", "2026-01-01T00:00:10Z", "--until", "2026-01-01T00:00:50Z")
    where = (
        "--where",
        "position=19",
        "--where",
        "metadata.device=phone",
        "--where",
        '{"feature_id": {"ne": "doc-39"}}',
    )
    chosen = ("--columns", "feature_id,position", "--format", "csv", "--output", str(file))
    done = await export(lab.settings, *range_, *where, *chosen)
    assert (done.returncode, done.stdout) == (0, "")
    assert "exported 1 rows" in done.stderr
    assert re.search(r": records appended from 2026-01-01 00:00 UTC before 2026-01-01 00:00 UTC$", done.stderr.strip())
    assert file.read_text() == 'feature_id,position\n"doc-19",19\n'
    done = await export(lab.settings, "--hours", "1", "--output", str(file), "--force", "--json")
    assert json.loads(done.stdout)["rows"] == 0
    done = await export(lab.settings, "--namespace", "shop", "--output", str(file), "--force", "--json")
    assert json.loads(done.stdout)["rows"] == 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--format", "xml"], "--format"),
        (["--since", "yesterday"], "yesterday"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], "before it begins"),
        (["--since", "2026-01-02", "--hours", "3"], "choose one of --since, --days and --hours"),
        (["--days", "1", "--hours", "3"], "choose one of --since, --days and --hours"),
        (["--where", "event_time>=2026-01-01"], "it is occurred_at where the sender gave it, else timestamp"),
        (["--hours", "0"], "--hours"),
        (["--where", "user_id"], "--where"),
        (["--where", "nobody=1"], "--where"),
        (["--where", "{"], "--where"),
        (["--columns", "a"], "--columns"),
        (["--json"], "--json"),
        (["--namespace", "a,b"], "--namespace"),
    ],
)
async def test_an_invalid_option_is_named(shared_lab: Lab, options: list[str], named: str) -> None:
    done = await export(shared_lab.settings, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert named in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


async def test_a_pattern_that_is_none_is_an_error(shared_lab: Lab, tmp_path: Path) -> None:
    where = ("--where", '{"user_id": {"regex": "("}}')
    done = await export(shared_lab.settings, *where, "--output", str(tmp_path / "events"))
    assert done.returncode == 1
    assert "--where" in done.stderr
    assert names_in(tmp_path) == []


async def test_an_existing_file_is_replaced_only_by_force(lab: Lab, tmp_path: Path) -> None:
    await insert_many(lab.database, 1)
    file = tmp_path / "events.csv"
    file.write_text("mine")
    done = await export(lab.settings, "--output", str(file))
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert file.read_text() == "mine"
    link = tmp_path / "link.csv"
    link.symlink_to(file)
    assert (await export(lab.settings, "--output", str(link), "--force")).returncode == 0
    assert link.is_symlink()
    assert file.read_text().startswith("feature_id,")
    assert stat.S_IMODE(file.stat().st_mode) & 0o111 == 0


@pytest.mark.parametrize("target", ["/nowhere/events.csv", "/dev/null", "."])
async def test_a_file_that_cannot_be_written_is_an_error(shared_lab: Lab, target: str) -> None:
    done = await export(shared_lab.settings, "--output", target, "--force")
    assert done.returncode == 1
    assert target in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("output", EXPORT_FORMATS)
async def test_standard_output_has_the_bytes_of_the_export(lab: Lab, output: Any) -> None:
    await insert_many(lab.database, 10_000)
    process = await as_process(lab.settings, "--format", output)
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert out == await export_bytes(lab.database, request_of(output))
    assert (b"exported " if output == "parquet" else b"exported 10,000 rows") in err


async def test_a_reader_that_leaves_ends_the_command(lab: Lab) -> None:
    await insert_many(lab.database, 10_000)
    process = await as_process(lab.settings)
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await process.wait() == BROKEN_PIPE
    assert process.stderr is not None
    assert b"Traceback" not in await process.stderr.read()


async def test_a_terminal_gets_no_control_characters_and_no_parquet(lab: Lab) -> None:
    await lab.emit(click("hostile", user_id="\x1b[31mred\x9b32m"))
    await lab.drain()

    def at_terminal(*options: str) -> tuple[int, str]:
        arguments = [TALLY, "export", "interactions", *options]
        with Terminal(arguments, environment(lab.settings) | {"TERM": "dumb"}, columns=200) as terminal:
            return terminal.end(), terminal.output

    code, output = await asyncio.to_thread(at_terminal, "--format", "csv", "--columns", "user_id")
    assert code == 0
    assert output.startswith('user_id\n"\\x1b[31mred\\x9b32m"\nexported 1 rows')
    code, output = await asyncio.to_thread(at_terminal, "--format", "parquet")
    assert code == 2
    assert "parquet is binary" in " ".join(output.split())


@pytest.mark.parametrize("is_interrupted", [True, False])
async def test_an_unfinished_export_leaves_no_file(lab: Lab, tmp_path: Path, is_interrupted: bool) -> None:
    """After Ctrl-C, and after a store that breaks off in the middle."""
    await insert_many(lab.database, 200_000)
    port = urlsplit(lab.settings.clickhouse.get_secret_value()).port or 0
    async with proxy_to(port) as proxy:
        proxy.delay_s = 0.01
        there = lab.settings.model_copy(update={"clickhouse": at_port(lab.settings.clickhouse, proxy.port)})
        process = await as_process(there, "--output", str(tmp_path / "events.jsonl"))

        async def has_begun() -> bool:
            return names_in(tmp_path) != []

        await eventually_async(has_begun)
        if is_interrupted:
            process.send_signal(signal.SIGINT)
        else:
            proxy.cut()
        _out, err = await process.communicate()
    assert process.returncode == (130 if is_interrupted else 4)
    assert names_in(tmp_path) == []
    assert b"Traceback" not in err
    assert is_interrupted or b"ClickHouse" in err


@given(st.lists(st.text('a",\r\n'), max_size=20), st.integers(1, 5))
def test_rows_of_csv_are_counted_in_any_pieces(texts: list[str], size: int) -> None:
    lines = ["name", *(f'"{text.replace(chr(34), chr(34) * 2)}",1' for text in texts)]
    data = "".join(f"{line}\n" for line in lines).encode()
    counter = counter_of("csv")
    for start in range(0, len(data), size):
        counter.add(data[start : start + size])
    assert counter.rows == len(texts)
