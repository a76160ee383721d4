"""`tally sql`: one read-only statement, as a table or in a format of ClickHouse."""

import codecs
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from runtime.errors import TallyError
from runtime.text import printable
from tally.cli.options import AsJson, DataDir, load_settings, needs
from tally.cli.output import answers, counted, err, out, say, table

OutputFormat = Literal["table", "csv", "tsv", "json", "jsonl", "parquet", "arrow", "markdown", "vertical"]

_TABLE = "JSONEachRow"
_FORMATS: Mapping[OutputFormat, str] = {
    "table": _TABLE,
    "csv": "CSVWithNames",
    "tsv": "TSVWithNames",
    "json": "JSON",
    "jsonl": "JSONEachRow",
    "parquet": "Parquet",
    "arrow": "ArrowStream",
    "markdown": "Markdown",
    "vertical": "Vertical",
}
"""ClickHouse's name of each format."""
_BINARY = ("Parquet", "ArrowStream")
_ENDINGS: Mapping[str, OutputFormat] = {
    **{f".{name}": name for name in ("csv", "tsv", "json", "jsonl", "parquet", "arrow")},
    ".ndjson": "jsonl",
    ".md": "markdown",
}
_PARAMETER = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL | re.ASCII)


@needs("worker")
def sql(
    statement: Annotated[str, typer.Argument(help="Statement that reads; - reads it from standard input.")],
    output_format: Annotated[
        OutputFormat | None,
        typer.Option("--format", help="Default: table on a terminal, the ending of --output, else tsv."),
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--param", help="Value of {name:Type} in the statement, name=value; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write instead of standard output.")] = None,
    rows: Annotated[int, typer.Option(help="Maximum rows of a table; other formats have all.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Run one SQL statement in Tally's database as the read-only user (TALLY_ANALYST, else TALLY_CLICKHOUSE).

    Examples: tally sql "SHOW TABLES"; tally sql "SELECT count() FROM interactions WHERE user_id = {user:String}"
    --param user=ada; tally sql - --output clicks.parquet < clicks.sql
    """
    from runtime.read_only_sql import MAX_STATEMENT_BYTES, run_read_only

    chosen = _format_of(output_format, output, as_json=as_json)
    parameters = dict(map(_parameter, parameter or ()))
    settings = load_settings(data_dir)
    if not settings.analyst.get_secret_value():
        settings.need("clickhouse")
    text = _read_statement(MAX_STATEMENT_BYTES) if statement == "-" else statement
    if not text.strip():
        raise typer.BadParameter("is empty", param_hint="STATEMENT")
    if output is None and _FORMATS[chosen] in _BINARY and answers.isatty():
        raise typer.BadParameter(f"{chosen} is binary: add --output FILE, or pipe it", param_hint="--format")
    with ExitStack() as running:
        display = running.enter_context(err.status("running the statement"))
        result = running.enter_context(run_read_only(settings, text, _FORMATS[chosen], parameters))
        if chosen == "table" and result.format == _TABLE:
            found = list(itertools.islice(_read_rows(result.blocks), rows + 1))
            display.stop()
            _show(found, rows)
        elif output is not None:
            _write_file(result.blocks, output)
        else:
            display.stop()
            _write(result.blocks)


def _format_of(wanted: OutputFormat | None, output: Path | None, *, as_json: bool) -> OutputFormat:
    if as_json and wanted not in (None, "json"):
        raise typer.BadParameter(f"contradicts --format {wanted}", param_hint="--json")
    if wanted == "table" and output is not None:
        raise typer.BadParameter("a table is for terminals: choose another --format", param_hint="--output")
    if as_json or wanted is not None:
        return wanted or "json"
    if output is None:
        return "table" if answers.isatty() else "tsv"
    if output.suffix not in _ENDINGS:
        raise typer.BadParameter(f"needs --format, or an ending of {', '.join(_ENDINGS)}", param_hint="--output")
    return _ENDINGS[output.suffix]


def _parameter(text: str) -> tuple[str, str]:
    found = _PARAMETER.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not name=value", param_hint="--param")
    return found.group(1), found.group(2)


def _read_statement(limit_bytes: int) -> str:
    if sys.stdin is None:
        raise TallyError("cannot read from standard input: it is closed")
    with os.fdopen(os.dup(0), "rb") as stream:
        text = stream.read(limit_bytes + 1)
    if len(text) > limit_bytes:
        raise typer.BadParameter(f"has more than {limit_bytes:,} bytes", param_hint="STATEMENT")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter("is not UTF-8", param_hint="STATEMENT") from None


class _Number(str):
    """Number as ClickHouse wrote it: a float would lose digits of a decimal."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """JSON object, with repeated names: `SELECT 1 AS a, 2 AS a` has two."""


def _read_rows(blocks: Iterable[bytes]) -> Iterator[_Pairs]:
    """Yield each row as names and values."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield json.loads(line, object_pairs_hook=_Pairs, parse_float=_Number, parse_int=_Number)


def _show(found: Sequence[_Pairs], limit: int) -> None:
    if not found:
        say("no rows")
        return
    columns = list(zip(*([value for _, value in row] for row in found), strict=True))
    numbers = {at for at, values in enumerate(columns) if all(isinstance(each, _Number | None) for each in values)}
    shown = table(*(name for name, _ in found[0]), right=numbers)
    for row in found[:limit]:
        shown.add_row(*(value if type(value) is str else _as_text(value) for _, value in row))
    out.print(shown)
    if len(found) > limit:
        say(f"the first {counted(limit, 'row')}: more with --rows, all of them with --format csv")


def _as_text(value: Any) -> str:
    """Return a value as JSON with its numbers unchanged; NULL for null."""
    if value is None:
        return "NULL"
    if isinstance(value, _Number):
        return value
    if isinstance(value, _Pairs):
        return (
            "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {_as_text(each)}" for name, each in value) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_text, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _write(blocks: Iterator[bytes]) -> None:
    if not answers.isatty():
        for block in blocks:
            answers.write_bytes(block)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for block in itertools.chain(blocks, [b""]):
        # Text of events must not act on the terminal.
        answers.write(printable(decoder.decode(block, final=not block), keep="\n\t"))


def _write_file(blocks: Iterator[bytes], output: Path) -> None:
    """Write a file, atomically where it is an ordinary one: a failure leaves an earlier file unchanged."""
    is_special = output.exists() and not output.is_file()
    written = output if is_special else output.with_name(f"{output.name}.part")
    try:
        with written.open("wb") as file:
            size = sum(map(file.write, blocks))
        if not is_special:
            written.replace(output)
    except BaseException as error:
        if not is_special:
            written.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise TallyError(f"cannot write {output}: {error.strerror or error}") from error
        raise
    say(f"{size:,} bytes written to {output}")
