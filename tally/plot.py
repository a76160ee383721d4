"""Charts of reports: trends with a band, points with intervals, bars and differences."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from readers.reports import ReportResult
from runtime.errors import TallyError
from runtime.text import printable
from schemas.analytics.catalogue import REPORTS
from schemas.analytics.definition import Chart, Report, ReportColumn

MAX_CATEGORIES = 25
"""Most values of a text that are drawn; the first ones of the report."""
MAX_SERIES = 8
MAX_BARS = 40
"""Most points of a trend whose intervals are drawn as bars besides the band."""
MAX_DIFFERENCE = 1.0
"""Largest difference on the axis, as a share of A: a rare metric's interval would flatten the others."""
MAX_LABEL = 40
_SVG: Any = {"svg.hashsalt": "tally", "svg.fonttype": "none"}
"""The same rows give the same file, and texts stay texts."""
_COLOR, _MUTED = "#3b6ea5", "#666666"
_WIDTH, _HEIGHT, _CATEGORY_HEIGHT = 9, 4.5, 0.28
"""Sizes of a figure in inches."""

Row = Mapping[str, Any]


class Point(NamedTuple):
    """Point of a chart: a value with the ends of its interval, or with itself as both ends."""

    x: Any
    y: float
    low: float
    high: float
    row: Row


def draw(found: ReportResult, path: Path, *, min_support: int) -> str:
    """Write a chart as PNG or SVG by the suffix of `path`; return a note about it.

    A row with fewer than `min_support` observations is not drawn. Without any row no file is written. Raises TallyError
    when the file cannot be written, and for a report without a chart.
    """
    chart = found.report.chart
    if chart is None:
        raise TallyError(f"the report {found.report.name} has no chart")
    if missing := [name for name in _needed(chart, REPORTS[found.report.name]) if name not in found.columns]:
        raise TallyError(f"--columns lacks {', '.join(missing)}, which the chart needs")
    points = _points(found, chart, min_support)
    if not points:
        return f"no chart: no row has {min_support:,} observations (--min-support)"
    is_trend = chart.kind == "trend" and isinstance(points[0].x, datetime)
    has_categories = isinstance(points[0].x, str)
    drawn = points[:MAX_CATEGORIES] if has_categories else points
    height = 2 + _CATEGORY_HEIGHT * len(drawn) if has_categories else _HEIGHT
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    _DRAW[chart.kind if is_trend or chart.kind != "trend" else "intervals"](axes, chart, drawn)
    _describe(axes, found, chart)
    save(figure, path)
    omitted = len(found.rows) - len(drawn)
    note = f"; {omitted:,} rows are not drawn: --min-support {min_support}, at most {MAX_CATEGORIES} names"
    return f"chart written to {path}" + (note if omitted else "")


def _needed(chart: Chart, report: Report) -> list[str]:
    """Return the columns that a chart is drawn from."""
    support = next(column.support for column in report.columns if column.name == chart.y)
    supports = ("a", "users_a", "users_b") if chart.kind == "differences" else (support,)
    return [name for name in (chart.x, chart.y, chart.series, *supports) if name]


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


def label(value: Any) -> Any:
    """Return a value as an axis shows it. Matplotlib reads a pair of dollar signs as a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value) or "(empty)"
    text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"
    return text.replace("$", r"\$")


def _trend(axes: Axes, chart: Chart, points: Sequence[Point]) -> None:
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(label(point.row[chart.series]) if chart.series else "", []).append(point)
    step = _step(points)
    for name in sorted(series, key=lambda name: -sum(point.y for point in series[name]))[:MAX_SERIES]:
        runs = _runs(series[name], step)
        color: Any = None if chart.series else _COLOR
        for run in runs:
            (line,) = axes.plot([p.x for p in run], [p.y for p in run], marker="o", markersize=3, color=color)
            color = line.get_color()
            if not chart.series:
                _add_intervals(axes, run, has_bars=len(points) <= MAX_BARS)
        axes.plot([], [], marker="o", markersize=3, color=color, label=name)
    if chart.series:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.set_yscale("log")
    axes.set_xlim(points[0].x - step, points[-1].x + step)
    locator = AutoDateLocator(tz=UTC)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))


def _step(points: Sequence[Point]) -> timedelta:
    """Return the time between neighbouring points; an hour for a single one."""
    times = sorted({point.x for point in points})
    return min((later - earlier for earlier, later in pairwise(times)), default=timedelta(hours=1))


def _runs(points: Sequence[Point], step: timedelta) -> list[list[Point]]:
    """Split points where one is missing, so that no line is drawn through a period without support."""
    runs = [[points[0]]]
    for earlier, later in pairwise(points):
        if later.x - earlier.x > step:
            runs.append([])
        runs[-1].append(later)
    return runs


def _add_intervals(axes: Axes, points: Sequence[Point], *, has_bars: bool) -> None:
    times = [point.x for point in points]
    axes.fill_between(times, [point.low for point in points], [point.high for point in points], color=_COLOR, alpha=0.2)
    if has_bars or len(points) == 1:
        axes.errorbar(times, [point.y for point in points], yerr=_errors(points), fmt="none", ecolor=_COLOR, capsize=3)


def _errors(points: Sequence[Point]) -> list[list[float]]:
    return [[max(0, point.y - point.low) for point in points], [max(0, point.high - point.y) for point in points]]


def _intervals(axes: Axes, _chart: Chart, points: Sequence[Point]) -> None:
    values, errors = [point.y for point in points], _errors(points)
    if isinstance(points[0].x, str):
        axes.errorbar(values, range(len(points)), xerr=errors, fmt="o", color=_COLOR, capsize=3)
        _name_rows(axes, points)
        axes.set_xlim(left=0)
    else:
        axes.errorbar([point.x for point in points], values, yerr=errors, fmt="o", color=_COLOR, capsize=3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)


def _differences(axes: Axes, _chart: Chart, points: Sequence[Point]) -> None:
    values = [point.y for point in points]
    axes.errorbar(values, range(len(points)), xerr=_errors(points), fmt="o", color=_COLOR, capsize=3)
    axes.axvline(0, color=_MUTED, linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -MAX_DIFFERENCE), min(high, MAX_DIFFERENCE))
    _name_rows(axes, points)


def _bars(axes: Axes, _chart: Chart, points: Sequence[Point]) -> None:
    bars = axes.barh(range(len(points)), [point.y for point in points], color=_COLOR)
    shares = [point.row.get("share_of_previous") for point in points]
    counts = [f"{point.y:,.0f}" for point in points]
    labels = [text if share is None else f"{text} ({share:.1%})" for text, share in zip(counts, shares, strict=True)]
    axes.bar_label(bars, labels, padding=4)
    axes.margins(x=0.2)
    _name_rows(axes, points)


def _name_rows(axes: Axes, points: Sequence[Point]) -> None:
    """Name the points on the vertical axis, the first at the top."""
    axes.set_yticks(range(len(points)), [point.x for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)


_DRAW: Mapping[str, Callable[[Axes, Chart, Sequence[Point]], None]] = {
    "trend": _trend,
    "intervals": _intervals,
    "bars": _bars,
    "differences": _differences,
}


def _describe(axes: Axes, found: ReportResult, chart: Chart) -> None:
    """Set title and labels."""
    request, column = found.request, _column(found, chart.y)
    title, value = chart.title, f"{chart.y.replace('_', ' ')} ({column.meaning})"
    if chart.kind == "differences":
        a, b = (label(str(request.parameters[name])) for name in "ab")
        title, value = f"{b} compared with {a}", f"difference per user, as a share of {a}"
    axes.set_title(f"{title}, with 95 % intervals\n" if column.has_interval else f"{title}\n", loc="left")
    since, until = (f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}" for moment in (request.since, request.until))
    scope = f"{label(request.namespace)}, {since} to {until} UTC"
    axes.text(0, 1.02, scope, transform=axes.transAxes, color=_MUTED, fontsize=8)
    has_names = axes.yaxis_inverted()
    (axes.set_xlabel if has_names else axes.set_ylabel)(value)
    if not has_names and chart.x != "period":
        axes.set_xlabel(chart.x.replace("_", " "))
    value_axis = axes.xaxis if has_names else axes.yaxis
    if column.unit == "share" or chart.kind == "differences":
        value_axis.set_major_formatter(PercentFormatter(1))
    elif column.unit == "count":
        value_axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix. Raises TallyError when it cannot be written."""
    chosen = path.suffix.lower().removeprefix(".")
    try:
        with warnings.catch_warnings(), matplotlib.rc_context(_SVG):
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(path, dpi=120, format=chosen, metadata={"Date": None} if chosen == "svg" else {})
    except OSError as error:
        raise TallyError(f"cannot write {path}: {error.strerror}") from error
