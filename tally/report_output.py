"""Texts and files of a report: table cells with intervals, CSV, JSON and Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import typer

from readers.report_scope import scope_text
from readers.reports import ReportResult
from schemas.analytics.definition import ReportColumn, with_ends
from schemas.event_time import iso_ms
from tally.cli.destination import destination
from tally.output_file import check_target

CHART_SUFFIXES = (".png", ".svg")
_SMALLEST_P = 0.0001
_TEXTS = ("text", "texts", "time")
MAX_CELL = 100
"""Longest text of a table cell on a terminal, in characters. Other output has whole texts."""


def check_files(output: Path | None, plot: Path | None, *, force: bool) -> None:
    """Check file names before the report is made. Raises BadParameter, and TallyError for a file that exists."""
    if plot and plot.suffix.lower() not in CHART_SUFFIXES:
        raise typer.BadParameter(f"{plot}: name the file {' or '.join(CHART_SUFFIXES)}", param_hint="--plot")
    for path in filter(None, (output, plot)):
        check_target(path, force=force)


def scope(found: ReportResult) -> str:
    """Return the required parameters, the namespace, the range and the filters of a report."""
    request = found.request
    required = [
        f"{name} = {request.parameters[name]}" for name, value in found.report.defaults().items() if value is None
    ]
    brackets = "; in brackets 95 % intervals" if any(column.has_interval for column in found.report.columns) else ""
    footnote = f"; {found.report.footnote}" if found.report.footnote else ""
    return f"{', '.join([*required, scope_text(request)])}{brackets}{footnote}"


def by_importance(found: ReportResult) -> list[str]:
    """Return the names of the columns; the last ones are the first that a narrow table leaves out.

    Kept are the column that rows are sorted by, and those that a given parameter determines.
    """
    by, given = found.request.sort.partition(":")[0], found.request.parameters
    kept = {each.sets for each in found.report.parameters if given.get(each.name) is not None}
    ordered = sorted(
        found.report.columns, key=lambda column: 0 if by in with_ends(column) or column.name in kept else column.rank
    )
    return [column.name for column in ordered]


def headers(found: ReportResult) -> list[str]:
    """Return the names of the columns as a table shows them: the column with a field's values has the field's name."""
    by, added = found.request.parameters.get("by"), found.report.field_column
    return [
        str(by) if column == added or (column.name, column.unit) == ("period", "text") else column.name
        for column in found.report.columns
    ]


def numeric(found: ReportResult) -> list[int]:
    """Return the indexes of the columns of numbers."""
    return [number for number, column in enumerate(found.report.columns) if column.unit not in _TEXTS]


def cells(found: ReportResult, most: int = MAX_CELL) -> Iterator[list[str]]:
    """Yield the cells of each row; a rate is followed by its interval. `most`: characters of a text."""
    is_all = found.request.parameters.get("by") == "all"
    for record in found.records():
        yield [
            "all" if is_all and column.name == "period" else cell(column, record, most)
            for column in found.report.columns
        ]


def cell(column: ReportColumn, record: dict[str, Any], most: int = MAX_CELL) -> str:
    """Return the text of one value, with its interval if it has one."""
    value = record[column.name]
    if value is None:
        return "-"
    text = _text(column, value, most)
    low, high = (record.get(f"{column.name}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return text
    return f"{text} ({_number(column, low)}{' to ' if low < 0 else '-'}{_number(column, high)})"


def _text(column: ReportColumn, value: Any, most: int) -> str:
    if isinstance(value, datetime):
        return _time(column, value)
    if isinstance(value, list):
        return _shortened(" | ".join(map(str, value)), most)
    if isinstance(value, str):
        return _shortened(value, most) or "(none)"
    return f"{_number(column, value)}%" if column.unit == "share" else _number(column, value)


def _time(column: ReportColumn, moment: datetime) -> str:
    """Return a period to its minute, or as a day; the time of an event to its second."""
    if column.name != "period":
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{moment:%Y-%m-%d %H:%M}" if (moment.hour, moment.minute) != (0, 0) else f"{moment:%Y-%m-%d}"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(column: ReportColumn, value: float) -> str:
    match column.unit:
        case "share":
            return f"{100 * value:.1f}"
        case "number":
            return f"{value:.3f}"
        case "p":
            return f"{value:.4f}" if value >= _SMALLEST_P else f"<{_SMALLEST_P}"
        case _:
            return f"{value:,.0f}"


def write(
    found: ReportResult, chosen: Literal["csv", "json", "parquet"], output: Path | None, *, force: bool = False
) -> None:
    """Write all columns to a file, or to standard output. Raises TallyError when they cannot be written."""
    with destination(output, force=force) as write_piece:
        write_piece(_ENCODED[chosen](found))


def _plain(value: Any) -> Any:
    return iso_ms(value) if isinstance(value, datetime) else value


def _json(found: ReportResult) -> bytes:
    rows = [{name: _plain(value) for name, value in row.items()} for row in found.records()]
    return f"{json.dumps(rows)}\n".encode()


def _csv(found: ReportResult) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(found.columns)
    for row in found.rows:
        writer.writerow([json.dumps(value) if isinstance(value, list) else _plain(value) for value in row])
    return file.getvalue().encode()


def _parquet(found: ReportResult) -> bytes:
    import pyarrow  # noqa: PLC0415  (large, and needed for this format alone)
    from pyarrow import parquet  # noqa: PLC0415

    kinds = {
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "time": pyarrow.timestamp("ms", tz="UTC"),
        "count": pyarrow.int64(),
        "position": pyarrow.int64(),
    }
    fields = [
        (name, kinds.get(column.unit, pyarrow.float64()))
        for column in found.report.columns
        for name in with_ends(column)
    ]
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(found.records(), schema=pyarrow.schema(fields)), file)
    return file.getvalue()


_ENCODED: Mapping[str, Callable[[ReportResult], bytes]] = {"csv": _csv, "json": _json, "parquet": _parquet}
