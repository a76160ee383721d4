"""Rows of a report as a table and as a chart, and beside the rows of the range before."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

from markupsafe import Markup

from console.charts import ChartLine, ChartRow, LinePoint, line_chart, row_chart
from console.digits import even_numbers, even_shares, p_value
from console.text import NONE, name_of, parse_time, unit_format

MAX_CHART_ROWS = 30
MIDNIGHT = datetime.min.time()
DATE_CHARACTERS = len("2026-01-31")
STEPS = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
"""Lengths of periods by their name; a range as a whole is one period, whatever its length."""
NUMERIC_UNITS = ("count", "share", "number", "ms", "position", "p")
ReportRow = Mapping[str, Any]


class Cell(NamedTuple):
    """Value of a row, with its interval and the value of the range before, as text."""

    text: Any
    interval: str = ""
    before: str = ""
    before_interval: str = ""
    kind: Literal["number", "list", ""] = ""
    session: str = ""
    """Session that the value names, whose journey it leads to; empty for other values."""


class Periods(NamedTuple):
    """Periods of an answer: when its range begins, and their length."""

    since: str
    step: timedelta

    def number_of(self, begin: Any) -> int:
        """Return the number of the period that begins at a time. The range begins within number 0."""
        moment, since = parse_time(str(begin)), parse_time(self.since)
        return 0 if moment is None or since is None else -((since - moment) // self.step)


def headings(columns: Sequence[ReportRow], by: str) -> list[str]:
    """Return the names of the columns; the one with the values of a field has the name of the field."""
    return [by if by and _is_field(column) else column["name"] for column in columns]


def _is_field(column: ReportRow) -> bool:
    return (column["name"], column["unit"]) in (("period", "text"), ("value", "text"))


def day_columns(columns: Sequence[ReportRow], rows: Sequence[ReportRow]) -> set[str]:
    """Return the time columns whose values are all midnight in UTC: they name days, not moments."""
    found = set()
    for name in (column["name"] for column in columns if column["unit"] == "time"):
        moments = [parse_time(str(row[name])) for row in rows if row.get(name)]
        if moments and all(each is not None and each.time() == MIDNIGHT for each in moments):
            found.add(name)
    return found


def table_rows(
    columns: Sequence[ReportRow],
    keys: Sequence[str],
    answer: ReportRow,
    before: ReportRow | None = None,
    by: str = "day",
) -> list[list[Cell]]:
    """Return the cells of each row of an answer.

    Rows of the range before are matched by their keys; periods, each `by` long, by their number in the range.
    """
    rows, step = answer["rows"], STEPS.get(by, STEPS["day"])
    times = {column["name"] for column in columns if column["unit"] == "time"}
    days = day_columns(columns, rows)

    def keys_of(each: ReportRow) -> list[tuple[Any, ...]]:
        return _keys_of(each["rows"], keys, times, Periods(each["since"], step))

    earlier = dict(zip(keys_of(before), before["rows"], strict=True)) if before else {}
    pairs = [(row, earlier.get(key)) for key, row in zip(keys_of(answer), rows, strict=True)]
    shown = [each for pair in pairs for each in pair if each is not None]
    formats = [_day if column["name"] in days else _format_of(column, shown) for column in columns]
    return [
        [_cell(column, show, row, old) for column, show in zip(columns, formats, strict=True)] for row, old in pairs
    ]


def _format_of(column: ReportRow, rows: Sequence[ReportRow]) -> Callable[[Any], Any]:
    """Return the format of a column's values, ends of intervals included."""
    name, unit = column["name"], column["unit"]
    values = (row.get(each) for row in rows for each in (name, f"{name}_low", f"{name}_high"))
    numbers = [each for each in values if isinstance(each, int | float)]
    if unit in ("share", "number"):
        return even_shares(numbers) if unit == "share" else even_numbers(numbers)
    return p_value if unit == "p" else partial(unit_format, unit)


def _day(value: str | None) -> str:
    return f"{value[:DATE_CHARACTERS]}\u00a0UTC".replace("-", "\u2011") if value else NONE


def _keys_of(
    rows: Sequence[ReportRow], keys: Sequence[str], times: set[str], periods: Periods
) -> list[tuple[Any, ...]]:
    """Return the key of each row: its texts and numbers of periods, and its place among the rows with these."""
    seen: dict[tuple[Any, ...], int] = {}
    found = []
    for row in rows:
        key = tuple(periods.number_of(row.get(name)) if name in times else str(row.get(name)) for name in keys)
        place = seen[key] = seen.get(key, -1) + 1
        found.append((*key, place))
    return found


def _cell(column: ReportRow, show: Callable[[Any], Any], row: ReportRow, before: ReportRow | None) -> Cell:
    name, value = column["name"], row.get(column["name"])
    is_number = column["unit"] in NUMERIC_UNITS
    old, old_interval = "", ""
    if before is not None and is_number:
        old, old_interval = str(show(before.get(name))), _interval(name, show, before)
    session = str(value) if name == "session" and value else ""
    kind: Literal["number", "list", ""] = "number" if is_number else "list" if column["unit"] == "texts" else ""
    return Cell(show(value), _interval(name, show, row), old, old_interval, kind, session)


def _interval(name: str, show: Callable[[Any], Any], row: ReportRow) -> str:
    """Return the interval of a value; empty if it has none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"{show(low)} to {show(high)}"


def chart_of(chart: ReportRow | None, columns: Sequence[ReportRow], rows: Sequence[ReportRow]) -> Markup:
    """Draw the chart of a report; empty without one, or without values."""
    if not chart or not any(row.get(chart["y"]) is not None for row in rows):
        return Markup("")
    unit = next((column["unit"] for column in columns if column["name"] == chart["y"]), "number")
    by_kind = {"trend": _trend, "intervals": _rows, "bars": _rows, "differences": _rows}
    return by_kind[chart["kind"]](chart, unit, rows)


def _show(unit: str) -> Any:
    return lambda value: str(unit_format(unit, value))


def _trend(chart: ReportRow, unit: str, rows: Sequence[ReportRow]) -> Markup:
    """Draw a line for each series; the lines with the largest sums come first."""
    lines: dict[str, list[LinePoint]] = {}
    for row in rows:
        moment = parse_time(str(row.get(chart["x"])))
        if moment is None:
            return _rows(chart, unit, rows)
        y = row.get(chart["y"])
        name = name_of(row.get(chart["series"])) if chart["series"] else ""
        low, high = row.get(f"{chart['y']}_low"), row.get(f"{chart['y']}_high")
        title = f"{name} {moment:%Y-%m-%d %H:%M} UTC: {unit_format(unit, y)}".strip()
        lines.setdefault(name, []).append(LinePoint(moment.timestamp() * 1000, y, low, high, title))
    ordered = sorted(lines.items(), key=lambda each: -sum(point.y or 0 for point in each[1]))
    drawn = [ChartLine(name, sorted(points, key=lambda each: each.x)) for name, points in ordered]
    axis: Literal["day", "time"] = "day" if day_columns([{"name": chart["x"], "unit": "time"}], rows) else "time"
    return line_chart(drawn, label=chart["title"], show=_show(unit), axis=axis)


def series_names(chart: ReportRow | None, rows: Sequence[ReportRow]) -> list[str]:
    """Return the names of a trend's lines in the order of their colours."""
    if not chart or not chart.get("series"):
        return []
    sums: dict[str, float] = {}
    for row in rows:
        name = name_of(row.get(chart["series"]))
        sums[name] = sums.get(name, 0) + (row.get(chart["y"]) or 0)
    return sorted(sums, key=lambda name: -sums[name])


def _rows(chart: ReportRow, unit: str, rows: Sequence[ReportRow]) -> Markup:
    y = chart["y"]
    shown = [
        ChartRow(name_of(row.get(chart["x"])), row.get(y), row.get(f"{y}_low"), row.get(f"{y}_high"))
        for row in rows[:MAX_CHART_ROWS]
    ]
    return row_chart(shown, label=chart["title"], show=_show(unit), as_bars=chart["kind"] == "bars")
