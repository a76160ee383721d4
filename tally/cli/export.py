"""`tally export`: write stored data to files."""

import codecs
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from readers.export_format import EXPORT_FORMATS, ExportFormat
from runtime.text import printable
from tally.cli.options import (
    AsJson,
    DataDir,
    Namespace,
    Where,
    answer_json,
    load_settings,
    needs,
    parse_filter,
    parse_range,
)
from tally.cli.output import answers, err, say

if TYPE_CHECKING:
    from readers.export import ExportRequest
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings
    from tally.export import ExportSummary

STANDARD_OUTPUT = "-"
_MIB = 1024 * 1024

app = typer.Typer(help="Write stored data to files.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `interactions` a subcommand: typer promotes the only command of a group."""


@app.command()
@needs("worker")
def interactions(
    since: Annotated[str | None, typer.Option(help="Only records appended at this time or later.")] = None,
    until: Annotated[str | None, typer.Option(help="Only records appended before this time.")] = None,
    hours: Annotated[
        float | None, typer.Option(help="Only records of the last hours, instead of --since.", min=0.01, max=300_000)
    ] = None,
    where: Where = None,
    columns: Annotated[str | None, typer.Option(help="Fields separated by commas. Default: all.")] = None,
    output_format: Annotated[
        ExportFormat | None, typer.Option("--format", help="Default: that of the file's suffix, else jsonl.")
    ] = None,
    output: Annotated[str, typer.Option(help="File, or - for standard output.")] = STANDARD_OUTPUT,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write stored interactions to a file, in the order of their ids: JSON lines, CSV or Parquet.

    A file appears under its name once it is complete; --json then prints rows, bytes, sha256 and seconds.

    Examples: tally export interactions --since 2026-11-01 --until 2026-12-01 --output november.parquet;
    tally export interactions --hours 24 --where user_id=ada --where metadata.device=ios --columns feature_id,timestamp
    """
    from readers.export import ExportRequest
    from schemas.record import RECORD_FIELDS

    chosen = output_format or _format_of(output)
    if output == STANDARD_OUTPUT:
        _check_standard_output(chosen, as_json=as_json)
    if hours is not None and since is not None:
        raise typer.BadParameter("cannot be combined with --since", param_hint="--hours")
    begin, end = parse_range(since, until)
    if hours is not None:
        begin = datetime.now(UTC) - timedelta(hours=hours)
    selected = RECORD_FIELDS if columns is None else _columns(columns)
    settings = load_settings(data_dir, "clickhouse")
    filters = [parse_filter(text) for text in where or ()]
    request = ExportRequest(namespace or settings.namespace, begin, end, filters, chosen, selected)

    summary = _exported(settings, request, output, force=force)
    if as_json:
        answer_json({**summary._asdict(), "file": output})
    else:
        counted = "" if summary.rows is None else f"{summary.rows:,} rows, "
        where_to = "standard output" if output == STANDARD_OUTPUT else output
        say(f"exported {counted}{summary.bytes:,} bytes to {where_to} in {summary.seconds:.1f} s")


def _format_of(output: str) -> ExportFormat:
    suffix = Path(output).suffix.removeprefix(".").lower()
    return next((each for each in EXPORT_FORMATS if each == suffix), "jsonl")


def _check_standard_output(chosen: ExportFormat, *, as_json: bool) -> None:
    if as_json:
        raise typer.BadParameter("needs --output FILE: standard output has the records", param_hint="--json")
    if chosen == "parquet" and answers.isatty():
        raise typer.BadParameter("Parquet is not for a terminal: write to a file or a pipe", param_hint="--output")


def _columns(text: str) -> tuple[str, ...]:
    from readers.export_options import read_columns

    try:
        return read_columns(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--columns") from None


def _exported(settings: "Settings", request: "ExportRequest", output: str, *, force: bool) -> "ExportSummary":
    from tally.answering import queried
    from tally.export import export

    def report(rows: int | None, size: int) -> None:
        counted = "" if rows is None else f"{rows:,} rows, "
        progress.update(f"{counted}{size / _MIB:,.1f} MiB exported")

    async def run(database: "ClickHouse") -> "ExportSummary":
        with _sink(output, force=force) as write:
            return await export(database, request, settings.export_timeout_ms, write, report)

    with err.status("exporting") as progress:
        return queried(settings, run)


@contextmanager
def _sink(output: str, *, force: bool) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes the pieces of an export. On a terminal it escapes control characters."""
    from tally.output_file import complete_file

    if output != STANDARD_OUTPUT:
        with complete_file(Path(output), force=force) as file:
            yield file.write
    elif answers.isatty():
        decoder = codecs.getincrementaldecoder("utf-8")()
        yield lambda piece: answers.write(printable(decoder.decode(piece), keep="\n"))
    else:
        yield answers.write_bytes
