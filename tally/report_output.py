"""Texts and files of a report: table cells with intervals, CSV, JSON and Parquet."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from readers.reports import ReportResult
from runtime.errors import TallyError
from schemas.analytics.definition import ReportColumn, with_ends
from schemas.event_time import iso_ms
from tally.cli.destination import destination
from tally.output_file import check_target

CHART_SUFFIXES = (".png", ".svg")
_SMALLEST_P = 0.0001
_TEXTS = ("text", "texts", "time")
MAX_CELL = 60
"""Longest text of a table cell in characters. CSV, JSON and Parquet have whole texts."""


def check_files(output: Path | None, plot: Path | None, *, force: bool) -> None:
    """Check file names before the report is made; a chart replaces its file. Raises TallyError."""
    if plot and plot.suffix.lower() not in CHART_SUFFIXES:
        raise TallyError(f"--plot {plot}: name the file {' or '.join(CHART_SUFFIXES)}")
    if output:
        check_target(output, force=force)
    if plot:
        check_target(plot, force=True)


def scope(found: ReportResult) -> str:
    """Return the required parameters, the namespace and the range of a report."""
    request = found.request
    since, until = (f"{moment:%Y-%m-%d %H:%M}" for moment in (request.since, request.until))
    required = [
        f"{name} = {request.parameters[name]}" for name, value in found.report.defaults().items() if value is None
    ]
    brackets = "; in brackets 95 % intervals" if any(column.has_interval for column in found.report.columns) else ""
    return f"{', '.join([*required, request.namespace, f'{since} to {until} UTC'])}{brackets}"


def by_importance(found: ReportResult) -> list[str]:
    """Return the names of the columns; the last ones are the first that a narrow table leaves out."""
    by = found.request.sort.partition(":")[0]
    ordered = sorted(found.report.columns, key=lambda column: 0 if by in with_ends(column) else column.rank)
    return [column.name for column in ordered]


def numeric(found: ReportResult) -> list[int]:
    """Return the indexes of the columns of numbers."""
    return [number for number, column in enumerate(found.report.columns) if column.unit not in _TEXTS]


def cells(found: ReportResult) -> Iterator[list[str]]:
    """Yield the cells of each row; a rate is followed by its interval."""
    for record in found.records():
        yield [cell(column, record) for column in found.report.columns]


def cell(column: ReportColumn, record: dict[str, Any]) -> str:
    """Return the text of one value, with its interval if it has one."""
    value = record[column.name]
    if value is None:
        return "-"
    text = _text(column, value)
    low, high = (record.get(f"{column.name}_{end}") for end in ("low", "high"))
    if low is None or high is None:
        return text
    return f"{text} ({_number(column, low)}{' to ' if low < 0 else '-'}{_number(column, high)})"


def _text(column: ReportColumn, value: Any) -> str:
    if isinstance(value, datetime):
        has_time = column.name != "period" or (value.hour, value.minute) != (0, 0)
        return f"{value:%Y-%m-%d %H:%M}" if has_time else f"{value:%Y-%m-%d}"
    if isinstance(value, list):
        return _shortened(" | ".join(map(str, value)))
    if isinstance(value, str):
        return _shortened(value) or "(none)"
    return f"{_number(column, value)}%" if column.unit == "share" else _number(column, value)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


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
