"""`tally export`: write stored data to files."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from readers.export_format import EXPORT_FORMATS, ExportFormat
from runtime.event_range import MAX_DAYS, MAX_HOURS, event_range
from tally.cli.destination import Force, Output, check_binary, destination
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
from tally.cli.output import err, say

if TYPE_CHECKING:
    from readers.export import ExportRequest
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings
    from tally.export import ExportSummary

_MIB = 1024 * 1024

app = typer.Typer(help="Write stored data to files.", no_args_is_help=True)


@app.command()
@needs("worker")
def interactions(
    since: Annotated[str | None, typer.Option(help="Only records appended at this time or later.")] = None,
    until: Annotated[str | None, typer.Option(help="Only records appended before this time.")] = None,
    days: Annotated[
        float | None, typer.Option(help="Only records appended in the last days.", min=0.001, max=MAX_DAYS)
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Only records appended in the last hours.", min=0.001, max=MAX_HOURS)
    ] = None,
    where: Where = None,
    columns: Annotated[str | None, typer.Option(help="Fields separated by commas. Default: all.")] = None,
    output_format: Annotated[
        ExportFormat | None, typer.Option("--format", help="Default: that of the file's suffix, else jsonl.")
    ] = None,
    output: Output = None,
    force: Force = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write stored interactions to a file, in the order of their ids: JSON lines, CSV or Parquet.

    The range is of append time (`timestamp`). Reports read event time, which is occurred_at for a backfill: to export
    by it, add --where 'occurred_at>=2026-11-01'.

    A file appears under its name once it is complete; --json then prints rows, bytes, sha256 and seconds.

    Examples:
        tally export interactions --since 2026-11-01 --until 2026-12-01 --output november.parquet
        tally export interactions --days 7 --where metadata.device=ios --columns feature_id,timestamp
    """
    from readers.export import ExportRequest
    from schemas.record import RECORD_FIELDS

    chosen = output_format or _format_of(output)
    if as_json and output is None:
        raise typer.BadParameter("needs --output FILE: standard output has the records", param_hint="--json")
    if chosen == "parquet":
        check_binary(chosen, output)
    begin, end = _append_range(since, until, days, hours)
    selected = RECORD_FIELDS if columns is None else _columns(columns)
    settings = load_settings(data_dir, "clickhouse")
    filters = [parse_filter(text) for text in where or ()]
    request = ExportRequest(namespace or settings.namespace, begin, end, filters, chosen, selected)

    summary = _exported(settings, request, output, force=force)
    if as_json:
        answer_json({**summary._asdict(), "file": str(output)})
    else:
        counted = "" if summary.rows is None else f"{summary.rows:,} rows, "
        target = f"{output or 'standard output'} in {summary.seconds:.1f} s"
        say(f"exported {counted}{summary.bytes:,} bytes to {target}: {_range_text(begin, end)}")


def _append_range(
    since: str | None, until: str | None, days: float | None, hours: float | None
) -> tuple[datetime | None, datetime | None]:
    """Return the range of append time that these options name; None: without that end. Raises BadParameter."""
    begin, end = parse_range(since, until)
    if days is None and hours is None:
        return begin, end
    try:
        return event_range(begin, end, days, hours)[0], end
    except ValueError:
        raise typer.BadParameter("choose one of --since, --days and --hours", param_hint="--since") from None


def _range_text(begin: datetime | None, end: datetime | None) -> str:
    if begin is None and end is None:
        return "records of any append time"
    ends = ((begin, "from"), (end, "before"))
    return "records appended " + " ".join(
        f"{word} {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" for moment, word in ends if moment
    )


def _format_of(output: Path | None) -> ExportFormat:
    suffix = output.suffix.removeprefix(".").lower() if output else ""
    return next((each for each in EXPORT_FORMATS if each == suffix), "jsonl")


def _columns(text: str) -> tuple[str, ...]:
    from readers.export_options import read_columns

    try:
        return read_columns(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--columns") from None


def _exported(settings: "Settings", request: "ExportRequest", output: Path | None, *, force: bool) -> "ExportSummary":
    from tally.answering import queried
    from tally.export import export
    from tally.export_rows import rows_of_parquet

    def report(rows: int | None, size: int) -> None:
        counted = "" if rows is None else f"{rows:,} rows, "
        progress.update(f"{counted}{size / _MIB:,.1f} MiB exported")

    async def run(database: "ClickHouse") -> "ExportSummary":
        with destination(output, force=force) as write:
            return await export(database, request, settings.export_timeout_ms, write, report)

    with err.status("exporting") as progress:
        summary = queried(settings, run)
    if request.format == "parquet" and output:
        summary = summary._replace(rows=rows_of_parquet(output))
    return summary
