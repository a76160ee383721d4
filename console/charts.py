"""Charts as SVG: lines with their interval, stacked bars over time, and rows with their interval.

Colours come from the style sheet by class, so that a chart follows the theme. Each mark has a title with its exact
values; the page shows the same values in a table as well.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from markupsafe import Markup, escape

from console.chart_axes import Scale, bounds, round_ticks, time_label, time_ticks
from console.text import written_out

WIDTH, HEIGHT = 720, 240
RIGHT, TOP, BOTTOM = 12, 12, 34
ROW_HEIGHT, NAME_WIDTH, LABEL_WIDTH = 30, 250, 120
CHARACTER_WIDTH = 14.5
"""Width of a character of the largest text: that of a chart on a phone."""
NAME_CHARACTERS = {"at-wide": 36, "at-half": 24, "at-narrow": 17}
"""Characters of a row's name that fit, by the class that the style sheet shows for the width of the chart."""
MAX_SERIES, MAX_NARROW_LABELS = 6, 5

ValueFormat = Callable[[Any], str]


class LinePoint(NamedTuple):
    """Point of a line: `x` is a number or a time in ms since 1970, `y` its value, None where it is unknown."""

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None
    title: str = ""


class ChartLine(NamedTuple):
    """Named line."""

    name: str
    points: Sequence[LinePoint]


class Bar(NamedTuple):
    """Bar over a step of time, in parts of the order of the legend."""

    x: float
    parts: Sequence[float]


class ChartRow(NamedTuple):
    """Named value with its interval."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    title: str = ""


def line_chart(
    lines: Sequence[ChartLine], *, label: str, show: ValueFormat = str, axis: Literal["time", "day", "number"] = "time"
) -> Markup:
    """Draw lines with their intervals as bands. A line breaks where its value is unknown.

    A `day` is one of UTC in every zone; a `time` is shown in the viewer's.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup("")
    ys = [value for each in points for value in (each.y, each.low, each.high)]
    ticks = round_ticks(*bounds(ys, with_zero=True))
    x = Scale(*bounds([each.x for each in points], with_zero=False), _left_of(ticks, show), WIDTH - RIGHT)
    y = Scale(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [
        *_y_axis(x, y, ticks, show),
        *(_number_axis(x) if axis == "number" else _time_axis(x, is_day=axis == "day")),
    ]
    for number, line in enumerate(lines[:MAX_SERIES]):
        parts += _line(line, number, x, y, show)
    return _drawing(parts, label, HEIGHT)


def _line(line: ChartLine, number: int, x: Scale, y: Scale, show: ValueFormat) -> list[Markup]:
    parts = []
    for run in _known_runs(line.points):
        band = [each for each in run if each.low is not None and each.high is not None]
        if band:
            edge = [f"{x.at(each.x)},{y.at(each.high or 0)}" for each in band]
            edge += [f"{x.at(each.x)},{y.at(each.low or 0)}" for each in reversed(band)]
            parts.append(Markup('<polygon class="band s{}" points="{}"/>').format(number, " ".join(edge)))
        path = " ".join(f"{x.at(each.x)},{y.at(each.y or 0)}" for each in run)
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(number, path))
        for each in run:
            title = written_out(each.title or f"{line.name} {show(each.y)}".strip())
            parts.append(
                Markup('<circle class="dot s{}" cx="{}" cy="{}" r="2.5"><title>{}</title></circle>').format(
                    number, x.at(each.x), y.at(each.y or 0), title
                )
            )
    return parts


def _known_runs(points: Sequence[LinePoint]) -> list[list[LinePoint]]:
    """Split points into runs without unknown values."""
    runs: list[list[LinePoint]] = [[]]
    for point in points:
        if point.y is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def bar_chart(
    bars: Sequence[Bar], names: Sequence[str], step_ms: float, *, label: str, show: ValueFormat = str
) -> Markup:
    """Draw stacked bars over time; `step_ms` is the time that a bar covers from its `x` on."""
    if not bars:
        return Markup("")
    ticks = round_ticks(0, max(1.0, *(sum(each.parts) for each in bars)))
    begin, end = min(each.x for each in bars), max(each.x for each in bars) + step_ms
    x = Scale(begin, end, _left_of(ticks, show), WIDTH - RIGHT)
    y = Scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    parts = [*_y_axis(x, y, ticks, show), *_time_axis(x)]
    for bar in bars:
        below = 0.0
        title = f"{datetime.fromtimestamp(bar.x / 1000, UTC):%Y-%m-%d %H:%M} UTC"
        title = "\n".join([title, *(f"{name}: {show(part)}" for name, part in zip(names, bar.parts, strict=True))])
        left, right = x.at(bar.x), x.at(bar.x + step_ms)
        marks = []
        for name, part in zip(names, bar.parts, strict=True):
            if part:
                top, bottom = y.at(below + part), y.at(below)
                marks.append(
                    Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}"/>').format(
                        f"v-{name}", left, top, round(max(0.5, right - left - 0.6), 1), round(max(0.5, bottom - top), 1)
                    )
                )
                below += part
        parts.append(Markup("<g>{}<title>{}</title></g>").format(Markup("").join(marks), title))
    return _drawing(parts, label, HEIGHT)


def row_chart(
    rows: Sequence[ChartRow], *, label: str, show: ValueFormat = str, as_bars: bool = False, zero: bool = True
) -> Markup:
    """Draw a row for each value: a dot with its interval, or a bar from zero."""
    if not rows:
        return Markup("")
    values = [value for row in rows for value in (row.value, row.low, row.high)]
    ticks = round_ticks(*bounds(values, with_zero=zero or as_bars))
    x = Scale(ticks[0], ticks[-1], NAME_WIDTH, WIDTH - RIGHT - 8)
    height = TOP + ROW_HEIGHT * len(rows) + BOTTOM
    parts: list[Markup] = []
    for tick, is_second in _each_second(ticks):
        parts.append(_grid_line(x.at(tick), TOP, x.at(tick), height - BOTTOM))
        parts.append(_axis_label(x.at(tick), height - 8, show(tick), is_second=is_second))
    for index, row in enumerate(rows):
        middle = TOP + ROW_HEIGHT * (index + 0.5)
        title = written_out(row.title or f"{row.name}: {show(row.value)}")
        marks = _row_name(written_out(row.name), middle)
        if row.value is not None and as_bars:
            start, end = sorted((x.at(0), x.at(row.value)))
            marks.append(
                Markup('<rect class="bar s0" x="{}" y="{}" width="{}" height="14"/>').format(
                    start, middle - 7, round(max(1, end - start), 1)
                )
            )
        if row.low is not None and row.high is not None:
            marks.append(
                Markup('<line class="interval" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    x.at(row.low), x.at(row.high), middle, middle
                )
            )
        if row.value is not None and not as_bars:
            marks.append(Markup('<circle class="dot s0" cx="{}" cy="{}" r="4"/>').format(x.at(row.value), middle))
        parts.append(Markup("<g>{}<title>{}</title></g>").format(Markup("").join(marks), title))
    return _drawing(parts, label, height)


def _row_name(name: str, y: float) -> list[Markup]:
    """Draw a row's name, cut at its end to what fits beside a chart of each width."""
    if len(name) <= min(NAME_CHARACTERS.values()):
        return [_text(4, y, name, "start", "level")]
    return [
        _text(4, y, name if len(name) <= most else f"{name[: most - 1]}…", "start", f"level {width}")
        for width, most in NAME_CHARACTERS.items()
    ]


def _left_of(ticks: Sequence[float], show: ValueFormat) -> float:
    """Return where a drawing begins, to the right of the labels of its ticks."""
    return 12 + CHARACTER_WIDTH * max(len(show(tick)) for tick in ticks)


def _y_axis(x: Scale, y: Scale, ticks: Sequence[float], show: ValueFormat) -> list[Markup]:
    parts = []
    for tick in ticks:
        parts.append(_grid_line(x.start, y.at(tick), WIDTH - RIGHT, y.at(tick)))
        parts.append(_text(x.start - 6, y.at(tick), show(tick), "end", "level"))
    return parts


def _time_axis(x: Scale, *, is_day: bool = False) -> list[Markup]:
    """Draw times, which the page's script shows in the viewer's zone, or days of UTC."""
    span, parts = x.high - x.low, []
    for tick, is_second in _each_second(time_ticks(x.low, x.high, is_day=is_day)):
        moment = datetime.fromtimestamp(tick / 1000, UTC)
        local = "" if is_day else Markup(' data-tick="{:.0f}" data-span="{:.0f}"').format(tick, span)
        title = Markup("<title>{:%Y-%m-%d %H:%M:%S} UTC</title>").format(moment)
        label = time_label(tick, span, is_day=is_day)
        at_start = x.at(tick) < x.start + LABEL_WIDTH / 4
        parts.append(_axis_label(x.at(tick), HEIGHT - 8, label, local, title, is_second=is_second, at_start=at_start))
    return parts


def _number_axis(x: Scale) -> list[Markup]:
    ticks = [tick for tick in round_ticks(x.low, x.high, 8) if x.low <= tick <= x.high]
    return [
        _axis_label(x.at(tick), HEIGHT - 8, f"{tick:g}", is_second=is_second) for tick, is_second in _each_second(ticks)
    ]


def _each_second(ticks: Sequence[float]) -> list[tuple[float, bool]]:
    """Return ticks, and whether a narrow chart has no place for their labels."""
    return [(tick, bool(number % 2) and len(ticks) > MAX_NARROW_LABELS) for number, tick in enumerate(ticks)]


def _axis_label(
    x: float,
    y: float,
    text: str,
    attributes: str = "",
    title: Markup | str = "",
    *,
    is_second: bool,
    at_start: bool = False,
) -> Markup:
    """Draw a label below an axis, within the drawing; `at_start`: not below the labels to the left of the axis."""
    anchor = "end" if x > WIDTH - LABEL_WIDTH / 2 else "start" if at_start else "middle"
    kind = Markup(' class="second"') if is_second else ""
    drawn = Markup('<text x="{}" y="{}" text-anchor="{}"{}{}>{}{}</text>')
    return drawn.format(round(x, 1), round(y, 1), anchor, kind, attributes, text, title)


def _grid_line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="grid" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str) -> Markup:
    drawn = Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>')
    return drawn.format(kind, round(x, 1), round(y, 1), anchor, text)


def _drawing(parts: Sequence[Markup], label: str, height: float) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, round(height), escape(label), Markup("").join(parts)
    )
