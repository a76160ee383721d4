"""`tally report`: answers about search, from the stored events."""

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tally.cli.destination import Force, Output
from tally.cli.event_range import Days, EventsSince, EventsUntil, Hours, event_range
from tally.cli.options import (
    AsJson,
    DataDir,
    Namespace,
    Where,
    answer_json,
    load_settings,
    needs,
    parse_filter,
)
from tally.cli.output import out, say, table
from tally.cli.report_options import (
    BotExecutions,
    By,
    ColumnNames,
    Effect,
    Format,
    Limit,
    MinExecutions,
    MinSupport,
    Of,
    Plot,
    PlotColumn,
    ReportFormat,
    ShareB,
    SortBy,
    Values,
    Window,
)

if TYPE_CHECKING:
    from readers.report_statement import ReportRequest
    from readers.reports import ReportResult
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings

SHOWN_ROWS = 50
"""Rows of a table, unless --limit says otherwise. Files and JSON have all."""


@needs("worker")
def report(
    name: Annotated[str | None, typer.Argument(help="Report; without one, all are listed.")] = None,
    values: Values = None,
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    hours: Hours = None,
    by: By = None,
    where: Where = None,
    sort: SortBy = None,
    limit: Limit = None,
    columns: ColumnNames = None,
    min_executions: MinExecutions = None,
    window_s: Window = None,
    of: Of = None,
    effect: Effect = None,
    share_b: ShareB = None,
    bot_executions: BotExecutions = None,
    output_format: Format = None,
    output: Output = None,
    force: Force = False,
    plot: Plot = None,
    plot_column: PlotColumn = None,
    min_support: MinSupport = 30,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Answer a question about search. Rates have 95 % intervals. Without a name, list the reports.

    Examples:
        tally report overview --days 7 --by day --plot ctr.png
        tally report queries --days 7 --sort zero_result_rate_low:desc
        tally report overview --by metadata.device --plot-column ms_to_click --plot clicks.png
        tally report positions --where metadata.device=ios
        tally report compare dense hybrid --days 7
    """
    from readers.report_statement import names_of
    from tally.report_output import check_files

    if name is None:
        _list(as_json=as_json)
        return
    chosen = _format(output_format, output, as_json=as_json)
    check_files(output, plot, force=force)
    settings = load_settings(data_dir, "clickhouse")
    parameters: dict[str, Any] = {"by": by, "min_executions": min_executions, "window_s": window_s, "of": of}
    parameters |= {"effect": effect, "share_b": share_b, "bot_executions": bot_executions, **_positional(name, values)}
    shown_rows = limit or (SHOWN_ROWS if chosen == "table" else None)
    most = limit if plot else shown_rows  # a chart has the rows and columns that the table leaves out
    ends = event_range(since, until, days, hours)
    request = _request(name, namespace or settings.namespace, ends, where, sort)
    chosen_columns = names_of(columns)
    request = request._replace(parameters=parameters, limit=most, columns=() if plot else chosen_columns)
    found, others = _run(settings, request)
    shown = found.with_columns(chosen_columns).first(shown_rows)
    if plot:
        _draw(found, plot, plot_column, chosen_columns, min_support)
    _answer(shown, others, chosen, output, force=force)


def _answer(
    shown: "ReportResult", others: dict[str, int], chosen: ReportFormat, output: Path | None, *, force: bool
) -> None:
    """Print a table, or write another format."""
    from tally.report_output import write

    if chosen == "table":
        _print(shown, others)
    else:
        write(shown, chosen, output, force=force)


def _list(*, as_json: bool) -> None:
    from schemas.analytics.catalogue import REPORTS

    if as_json:
        answer_json([{"name": each.name, "question": each.question} for each in REPORTS.values()])
        return
    listed = table("report", "question", "options", keep=("report", "question"), elsewhere="--json")
    for each in REPORTS.values():
        options = [
            f"--{parameter.name.replace('_', '-')}" for parameter in each.parameters if parameter.default is not None
        ]
        needed = [parameter.name.upper() for parameter in each.parameters if parameter.default is None]
        listed.add_row(" ".join([each.name, *needed]), each.question, " ".join(options))
    out.print(listed)


def _format(chosen: ReportFormat | None, output: Path | None, *, as_json: bool) -> ReportFormat:
    if as_json and chosen not in (None, "json"):
        raise typer.BadParameter("choose --json or --format", param_hint="--json")
    of_suffix: dict[str, ReportFormat] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    found = "json" if as_json else chosen or (of_suffix.get(output.suffix.lower()) if output else "table")
    if found is None or (output and found == "table"):
        raise typer.BadParameter("name the file .csv, .json or .parquet, or choose --format", param_hint="--output")
    if found == "parquet" and output is None:
        raise typer.BadParameter("needs --output FILE", param_hint="--format parquet")
    return found


def _positional(name: str, values: list[str] | None) -> dict[str, str]:
    """Return the required parameters of a report from the arguments after its name."""
    from schemas.analytics.catalogue import REPORTS

    known = REPORTS.get(name)
    needed = [parameter.name for parameter in known.parameters if parameter.default is None] if known else []
    values = values or []
    if known and len(values) > len(needed):
        raise typer.BadParameter(f"{values[len(needed)]!r} is one argument too many", param_hint="VALUES")
    return dict(zip(needed, values, strict=False))


def _request(
    name: str, namespace: str, ends: tuple[datetime, datetime], conditions: list[str] | None, sort: str | None
) -> "ReportRequest":
    from readers.filters import Group
    from readers.report_statement import ReportRequest

    filters = [parse_filter(text) for text in conditions or ()]
    found = Group(tuple(filters)) if filters else None
    return ReportRequest(name, namespace, *ends, filters=found, sort=sort or "")


def _run(settings: "Settings", request: "ReportRequest") -> "tuple[ReportResult, dict[str, int]]":
    """Return the report, and, if nothing was found, the namespaces that have events."""
    from readers.overview import events_by_namespace
    from readers.reports import run_report
    from tally.answering import queried

    async def ask(database: "ClickHouse") -> "tuple[ReportResult, dict[str, int]]":
        found = await run_report(settings, database, request)
        return found, await events_by_namespace(database) if found.is_nothing else {}

    return queried(settings, ask)


def _print(found: "ReportResult", others: dict[str, int]) -> None:
    from tally.report_output import MAX_CELL, by_importance, cells, headers, numeric, scope

    request = found.request
    names = headers(found)
    shown_as = dict(zip((column.name for column in found.report.columns), names, strict=True))
    shown = table(
        *names,
        title=found.report.question,
        caption=scope(found),
        right=numeric(found),
        keep=[shown_as[name] for name in by_importance(found)],
        elsewhere="--columns, --format csv",
    )
    for row in cells(found, MAX_CELL if out.is_terminal else sys.maxsize):
        shown.add_row(*row)
    if found.rows:
        out.print(shown)
    for note in found.notes:
        say(note)
    if others:
        say("namespaces with events: " + ", ".join(f"{name} ({count:,})" for name, count in others.items()))
    if others and request.name == "journey":
        session = shlex.quote(str(request.parameters["session"]))
        say(f"a session is found only in a range that has its events: `tally report journey {session} --days 30`")
    if found.is_truncated:
        say(f"only the first {len(found.rows):,} rows are shown: see --limit, --sort and --output")


@needs("plot")
def _draw(
    found: "ReportResult", path: Path, column: str | None, chosen_columns: tuple[str, ...], min_support: int
) -> None:
    from tally.plot import draw

    say(draw(found, path, min_support=min_support, column=column or "", among=chosen_columns))
