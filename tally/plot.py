"""Charts of reports, as PNG or SVG files."""

import textwrap
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from readers.report_scope import scope_text
from readers.report_statement import ReportError
from readers.reports import ReportResult
from runtime.errors import TallyError
from schemas.analytics.definition import Chart, ReportColumn, with_ends
from tally.cli.output import counted
from tally.plot_axes import DRAW, MAX_DIFFERENCE, MAX_SERIES, MUTED, Point, Row, escaped, label, series_of

MAX_CATEGORIES = 25
"""Most values of a text that are drawn; the first ones of the report."""
_SVG: Any = {"svg.hashsalt": "tally", "svg.fonttype": "none"}
"""The same rows give the same file, and texts stay texts."""
_WIDTH, _HEIGHT, _CATEGORY_HEIGHT = 9, 4.5, 0.28
"""Sizes of a figure in inches."""
_SUBTITLE_CHARACTERS, _SUBTITLE_LINES, _SUBTITLE_SIZE = 125, 6, 8
"""Characters of a line of the subtitle, its most lines, and the size of its letters in points."""
_LINE = 1.35
"""Height of a line of text, in sizes of its letters."""


def draw(found: ReportResult, path: Path, *, min_support: int, column: str = "", among: Sequence[str] = ()) -> str:
    """Write a chart as PNG or SVG by the suffix of `path`; return a note about it.

    `column` is drawn, by default that of `chosen_chart`. A row with fewer than `min_support` observations is not drawn.
    Without any row no file is written. Raises TallyError when the file cannot be written, and for a report without a
    chart.
    """
    chart = chosen_chart(found, column, among)
    points = _points(found, chart, min_support)
    if not points:
        return f"no chart: no row has {min_support:,} observations (--min-support)"
    is_trend = chart.kind == "trend" and isinstance(points[0].x, datetime)
    has_categories = isinstance(points[0].x, str)
    drawn = points[:MAX_CATEGORIES] if has_categories else points
    height = 2 + _CATEGORY_HEIGHT * len(drawn) if has_categories else _HEIGHT
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    DRAW[chart.kind if is_trend or chart.kind != "trend" else "intervals"](axes, chart, drawn)
    omitted = _omitted(found, chart, points, drawn, min_support)
    _describe(axes, found, chart, omitted)
    save(figure, path)
    return "; ".join([f"chart written to {path}", *omitted])


def chosen_chart(found: ReportResult, column: str = "", among: Sequence[str] = ()) -> Chart:
    """Return the chart of a report with the column to draw.

    That is `column`, else the one that rows are sorted by, else the only rate of `among`, else the report's own.
    Raises TallyError, and ReportError for a column that cannot be drawn.
    """
    report, chart = found.report, found.report.chart
    if chart is None:
        raise TallyError(f"the report {report.name} has no chart")
    is_free = chart.kind in ("trend", "intervals")
    rates = {each.name: each for each in report.columns if is_free and each.has_interval}
    if column and column not in (chart.y, *rates):
        raise ReportError("plot_column", f"{column[:60]!r} cannot be drawn; choose {', '.join(rates) or chart.y}")
    by_sort = [name for name, each in rates.items() if found.request.sort.partition(":")[0] in with_ends(each)]
    by_choice = [name for name in among if name in rates]
    y = column or next(iter(by_sort), "") or (by_choice[0] if len(by_choice) == 1 else chart.y)
    return chart._replace(y=y, title=_title(found, chart, y))


def _title(found: ReportResult, chart: Chart, y: str) -> str:
    """Return the title of a chart of a column, with the field that rows are grouped by."""
    field, added = escaped(str(found.request.parameters.get("by"))), found.report.field_column
    is_field = chart.x == "period" and _column(found, chart.x).unit == "text"
    has_series = added is not None and chart.series == added.name
    if y == chart.y:
        return f"{chart.title}{f' by {field}' if is_field else f' and {field}' if has_series else ''}"
    meaning, x = _column(found, y).meaning, chart.title.partition(" by ")[2] or "time"
    return f"{meaning[0].upper()}{meaning[1:]}, by {field if is_field else x}"


def _points(found: ReportResult, chart: Chart, min_support: int) -> list[Point]:
    """Return the points of rows with enough observations, in the order of the rows."""
    column, points = _column(found, chart.y), []
    for row in found.records():
        value, support = row[column.name], row.get(column.support, min_support)
        if chart.kind == "differences":  # metrics of different units share an axis, as shares of |A|
            support, scale = min(row["users_a"], row["users_b"]), abs(row["a"] or 0)
        else:
            scale = 1
        if value is None or support < min_support or not scale:
            continue
        low, high = (_end(row, column, end) for end in ("low", "high"))
        points.append(Point(label(row[chart.x]), value / scale, low / scale, high / scale, row))
    return points


def _end(row: Row, column: ReportColumn, end: str) -> float:
    found = row[f"{column.name}_{end}"] if column.has_interval else None
    return float(row[column.name] if found is None else found)


def _column(found: ReportResult, name: str) -> ReportColumn:
    return next(column for column in found.report.columns if column.name == name)


def _omitted(
    found: ReportResult, chart: Chart, points: Sequence[Point], drawn: Sequence[Point], min_support: int
) -> list[str]:
    """Return what the chart leaves out, and why."""
    lines = []
    if few := len(found.rows) - len(points):
        lines.append(f"not drawn: {counted(few, 'row')} with fewer than {min_support:,} observations (--min-support)")
    if more := len(points) - len(drawn):
        lines.append(f"not drawn: {counted(more, 'name')} after the first {MAX_CATEGORIES}")
    if chart.series and (count := len(series_of(chart, points))) > MAX_SERIES:
        lines.append(f"{MAX_SERIES} of {count:,} values of {chart.series} are drawn: those with the most {chart.y}")
    if chart.kind == "differences" and any(max(-each.low, each.high) > MAX_DIFFERENCE for each in points):
        lines.append("arrowheads: the interval continues")
    return lines


def _describe(axes: Axes, found: ReportResult, chart: Chart, omitted: Sequence[str]) -> None:
    """Set title, subtitle and labels."""
    request, column = found.request, _column(found, chart.y)
    title, value = chart.title, f"{chart.y.replace('_', ' ')} ({column.meaning})"
    if chart.kind == "differences":
        a, b = (label(str(request.parameters[name])) for name in "ab")
        title, value = f"{b} compared with {a}", f"difference per user, as a share of {a}"
    lines = [
        line
        for text in (scope_text(request), *found.notes, *omitted)
        for line in textwrap.wrap(escaped(text), _SUBTITLE_CHARACTERS)
    ][:_SUBTITLE_LINES]
    height = _LINE * _SUBTITLE_SIZE * len(lines)
    offset: Any = {"xytext": (0, 6), "textcoords": "offset points", "va": "bottom"}
    axes.annotate("\n".join(lines), (0, 1), xycoords="axes fraction", color=MUTED, fontsize=_SUBTITLE_SIZE, **offset)
    axes.set_title(f"{title}, with 95 % intervals" if column.has_interval else title, loc="left", pad=height + 12)
    has_names = axes.yaxis_inverted()
    (axes.set_xlabel if has_names else axes.set_ylabel)(textwrap.fill(value, 70))
    if not has_names and chart.x != "period":
        axes.set_xlabel(chart.x.replace("_", " "))
    value_axis = axes.xaxis if has_names else axes.yaxis
    if column.unit == "share" or chart.kind == "differences":
        value_axis.set_major_formatter(PercentFormatter(1))
    elif column.unit in ("count", "ms"):
        value_axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    chosen = path.suffix.lower().removeprefix(".")
    try:
        with warnings.catch_warnings(), matplotlib.rc_context(_SVG):
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, dpi=120, format=chosen, metadata={"Date": None} if chosen == "svg" else {})
    except OSError as error:
        raise TallyError(f"cannot write {path}: {error.strerror}") from error
