"""`tally sql`: one read-only statement, as a table or in a format of ClickHouse."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tally.cli.destination import Force, Output, check_binary, destination
from tally.cli.options import AsJson, DataDir, load_settings, needs
from tally.cli.output import answers, counted, err, out, say, table
from tally.cli.streams import read_standard_input
from tally.output_file import check_target

if TYPE_CHECKING:
    from runtime.clickhouse_stream import StreamedResult

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
    output: Output = None,
    force: Force = False,
    rows: Annotated[int, typer.Option(help="Maximum rows of a table; other formats have all.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Run one SQL statement in Tally's database as the read-only user (TALLY_ANALYST, else TALLY_CLICKHOUSE).

    Examples:
        tally sql "SHOW TABLES"
        tally sql "SELECT count() FROM interactions WHERE user_id = {user:String}" --param user=ada
        tally sql - --output clicks.parquet < clicks.sql
    """
    from runtime.analyst import MAX_STATEMENT_BYTES, analyst_result

    chosen = _format_of(output_format, output, as_json=as_json)
    parameters = dict(map(_parameter, parameter or ()))
    settings = load_settings(data_dir)
    text = read_standard_input(MAX_STATEMENT_BYTES, "STATEMENT") if statement == "-" else statement
    if not text.strip():
        raise typer.BadParameter("is empty", param_hint="STATEMENT")
    if _FORMATS[chosen] in _BINARY:
        check_binary(chosen, output)
    if output is not None:
        check_target(output, force=force)
    running = analyst_result(settings, text, parameters, _FORMATS[chosen])
    asyncio.run(_show_result(running, chosen, output, rows, force=force))


async def _show_result(
    running: AbstractAsyncContextManager["StreamedResult"],
    chosen: OutputFormat,
    output: Path | None,
    rows: int,
    *,
    force: bool,
) -> None:
    size = 0
    with err.status("running the statement") as display:
        async with running as result:
            if output is None:
                display.stop()
            if chosen == "table" and result.format == _TABLE:
                _show(await _first_rows(result.pieces, rows + 1), rows)
                return
            with destination(output, force=force) as write:
                async for piece in result.pieces:
                    write(piece)
                    size += len(piece)
    if output is not None:
        say(f"{size:,} bytes written to {output}")


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


class _Number(str):
    """Number as ClickHouse wrote it: a float would lose digits of a decimal."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """JSON object, with repeated names: `SELECT 1 AS a, 2 AS a` has two."""


async def _first_rows(pieces: AsyncIterator[bytes], limit: int) -> list[_Pairs]:
    found: list[_Pairs] = []
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        found += map(_read_row, lines[: limit - len(found)])
        if len(found) == limit:
            break
    return found


def _read_row(line: bytes) -> _Pairs:
    """Read a row in JSONEachRow."""
    row: _Pairs = json.loads(line, object_pairs_hook=_Pairs, parse_float=_Number, parse_int=_Number)
    return row


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
