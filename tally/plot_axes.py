"""Drawing of a chart's points on its axes: trends with a band, points with intervals, bars and differences."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter, date2num
from matplotlib.ticker import FixedLocator, MaxNLocator

from runtime.text import printable
from schemas.analytics.definition import Chart

MAX_SERIES = 8
"""Most lines of a trend: those with the largest sums."""
MAX_BARS = 40
"""Most points of a trend whose intervals are drawn as bars besides the band."""
MAX_TICKS = 10
"""Most dates on an axis."""
MAX_DIFFERENCE = 1.0
"""Largest difference on the axis, as a share of A: a rare metric's interval would flatten the others."""
MAX_LABEL = 40
COLOR, MUTED = "#3b6ea5", "#666666"
_MARGIN = 0.05
"""Space on both sides of the largest difference, as a share of it, so that its point is whole."""
_EDGE = 0.02
"""Space on the left of 0, as a share of the largest value."""
_DAY = timedelta(days=1)
_SPREAD = 0.8
"""Width in positions that the points of all series share."""

Row = Mapping[str, Any]


class Point(NamedTuple):
    """Point of a chart: a value with the ends of its interval, or with itself as both ends."""

    x: Any
    y: float
    low: float
    high: float
    row: Row


def escaped(text: str) -> str:
    """Return a text without control characters. Matplotlib reads a pair of dollar signs as a formula."""
    return printable(text).replace("$", r"\$")


def label(value: Any) -> Any:
    """Return a value as an axis shows it."""
    if not isinstance(value, str):
        return value
    text = value or "(empty)"
    return escaped(text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…")


def series_of(chart: Chart, points: Sequence[Point]) -> dict[str, list[Point]]:
    """Return the points of each series, those with the largest sums first."""
    series: dict[str, list[Point]] = {}
    for point in points:
        series.setdefault(label(point.row[chart.series]) if chart.series else "", []).append(point)
    return dict(sorted(series.items(), key=lambda each: -sum(point.y for point in each[1])))


def _trend(axes: Axes, chart: Chart, points: Sequence[Point]) -> None:
    step = step_of(points)
    for name, line_points in list(series_of(chart, points).items())[:MAX_SERIES]:
        color: Any = None if chart.series else COLOR
        for run in runs_of(line_points, step):
            (line,) = axes.plot([p.x for p in run], [p.y for p in run], marker="o", markersize=3, color=color)
            color = line.get_color()
            if not chart.series:
                _add_intervals(axes, run, has_bars=len(points) <= MAX_BARS)
        axes.plot([], [], marker="o", markersize=3, color=color, label=name)
    if chart.series:
        _add_legend(axes)
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=_bottom(points))
    date_axis(axes, [point.x for point in points], step)


def date_axis(axes: Axes, moments: Iterable[datetime], step: timedelta) -> None:
    """Limit the axis to these times, and half a step around them, and name their dates: each of them, if few."""
    times = sorted(set(moments))
    axes.set_xlim(date2num(times[0] - step / 2), date2num(times[-1] + step / 2))
    is_few = len(times) <= MAX_TICKS
    locator: Any = FixedLocator(date2num(times)) if is_few else AutoDateLocator(tz=UTC, maxticks=MAX_TICKS)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(DateFormatter("%d %b" if step >= _DAY else "%d %b\n%H:%M", tz=UTC))


def step_of(points: Sequence[Point]) -> timedelta:
    """Return the time between neighbouring points; an hour for a single one."""
    times = sorted({point.x for point in points})
    return min((later - earlier for earlier, later in pairwise(times)), default=timedelta(hours=1))


def runs_of(points: Sequence[Point], step: timedelta) -> list[list[Point]]:
    """Split points where one is missing, so that no line is drawn through a period without support."""
    runs = [[points[0]]]
    for earlier, later in pairwise(points):
        if later.x - earlier.x > step:
            runs.append([])
        runs[-1].append(later)
    return runs


def _bottom(points: Sequence[Point]) -> float:
    """Return the lower end of an axis: 0, which shows values in proportion, unless some are negative."""
    return min(0.0, *(1.1 * point.low for point in points))


def _add_intervals(axes: Axes, points: Sequence[Point], *, has_bars: bool) -> None:
    times = [point.x for point in points]
    axes.fill_between(times, [point.low for point in points], [point.high for point in points], color=COLOR, alpha=0.2)
    if has_bars or len(points) == 1:
        axes.errorbar(times, [point.y for point in points], yerr=_errors(points), fmt="none", ecolor=COLOR, capsize=3)


def _errors(points: Sequence[Point]) -> list[list[float]]:
    return [[max(0, point.y - point.low) for point in points], [max(0, point.high - point.y) for point in points]]


def _intervals(axes: Axes, chart: Chart, points: Sequence[Point]) -> None:
    if isinstance(points[0].x, str):
        values = [point.y for point in points]
        axes.errorbar(values, range(len(points)), xerr=_errors(points), fmt="o", color=COLOR, capsize=3)
        _name_rows(axes, points)
        axes.set_xlim(left=_bottom(points) - _EDGE * max(point.high for point in points))  # a point at 0 is whole
        return
    series = list(series_of(chart, points).items())[:MAX_SERIES]
    for number, (name, members) in enumerate(series):
        shift = _SPREAD * ((number + 0.5) / len(series) - 0.5)  # side by side, so that intervals do not overlap
        color = None if chart.series else COLOR
        values = [point.y for point in members]
        places = [point.x + shift for point in members]
        axes.errorbar(places, values, yerr=_errors(members), fmt="o", color=color, capsize=2, markersize=4, label=name)
    if chart.series:
        _add_legend(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=_bottom(points))


def _add_legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _differences(axes: Axes, _chart: Chart, points: Sequence[Point]) -> None:
    axes.errorbar(
        [point.y for point in points], range(len(points)), xerr=_errors(points), fmt="o", color=COLOR, capsize=3
    )
    axes.axvline(0, color=MUTED, linewidth=1)
    most = MAX_DIFFERENCE * (1 + _MARGIN)
    low, high = axes.get_xlim()
    ends = max(low, -most), min(high, most)
    for number, point in enumerate(points):
        for marker, end, is_cut in (("<", ends[0], point.low < ends[0]), (">", ends[1], point.high > ends[1])):
            if is_cut:
                axes.plot([end], [number], marker=marker, color=COLOR, clip_on=False, gid="cut")
    axes.set_xlim(*ends)
    _name_rows(axes, points)


def _bars(axes: Axes, _chart: Chart, points: Sequence[Point]) -> None:
    bars = axes.barh(range(len(points)), [point.y for point in points], color=COLOR)
    axes.bar_label(bars, list(map(_bar_label, points)), padding=4)
    axes.margins(x=0.4)
    _name_rows(axes, points)


def _bar_label(point: Point) -> str:
    share = point.row.get("share_of_previous")
    return f"{point.y:,.0f}" + ("" if share is None else f" ({share:.1%} of the previous step)")


def _name_rows(axes: Axes, points: Sequence[Point]) -> None:
    """Name the points on the vertical axis, the first at the top."""
    axes.set_yticks(range(len(points)), [point.x for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)


DRAW: Mapping[str, Callable[[Axes, Chart, Sequence[Point]], None]] = {
    "trend": _trend,
    "intervals": _intervals,
    "bars": _bars,
    "differences": _differences,
}
"""Function for each kind of chart."""
