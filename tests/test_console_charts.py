"""Charts of the console."""

import math
import unicodedata
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from console.chart_axes import Scale, round_ticks, time_ticks
from console.charts import HEIGHT, WIDTH, Bar, ChartLine, ChartRow, LinePoint, bar_chart, line_chart, row_chart

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def parsed(svg: str) -> ET.Element:
    """The drawing as a tree: it is well-formed."""
    return ET.fromstring(svg)  # noqa: S314  (our own drawing)


@given(FINITE, FINITE)
def test_ticks_are_even_and_cover_the_values(a: float, b: float) -> None:
    low, high = sorted((a, b))
    ticks = round_ticks(low, high)
    steps = [right - left for left, right in pairwise(ticks)]
    assert 2 <= len(ticks) <= 8
    tolerance = 1e-6 * max(steps)
    assert ticks[0] <= low + tolerance
    assert ticks[-1] >= high - tolerance
    assert max(steps) - min(steps) <= max(steps) * 1e-6


@given(st.integers(0, 2_000_000_000_000), st.integers(1_000, 40_000_000_000))
def test_time_ticks_are_few_and_within_the_range(start: int, span: int) -> None:
    ticks = time_ticks(start, start + span)
    assert len(ticks) <= 8
    assert all(start <= each <= start + span for each in ticks)


@given(FINITE, FINITE, FINITE)
def test_a_scale_keeps_values_in_the_drawing(a: float, b: float, c: float) -> None:
    low, middle, high = sorted((a, b, c))
    assert 0 <= Scale(low, high, 0, 100).at(middle) <= 100


@given(st.lists(st.tuples(FINITE, st.one_of(st.none(), FINITE)), max_size=20))
def test_a_line_has_a_dot_for_each_known_value(values: list[tuple[float, float | None]]) -> None:
    points = [LinePoint(x, y, y, y) for x, y in sorted(values, key=lambda each: each[0])]
    svg = line_chart([ChartLine("a", points)], label="values", axis="number")
    if not points:
        assert svg == ""
        return
    dots = list(parsed(svg).iter("circle"))
    assert len(dots) == sum(y is not None for _, y in values)
    for dot in dots:
        assert 0 <= float(dot.attrib["cx"]) <= WIDTH
        assert 0 <= float(dot.attrib["cy"]) <= HEIGHT


@given(st.text(max_size=40))
def test_names_of_rows_stay_text(name: str) -> None:
    plain = "".join(each for each in name if each.isprintable())
    svg = row_chart([ChartRow(plain, 0.5, 0.4, 0.6)], label=plain, as_bars=True)
    tree = parsed(svg)
    assert {each.tag for each in tree.iter()} <= {"svg", "g", "rect", "line", "text", "title", "circle"}
    assert tree.attrib["aria-label"] == plain


@given(st.text(max_size=40))
def test_charts_hide_nothing_of_foreign_text(name: str) -> None:
    points = [LinePoint(0, 1.0), LinePoint(1, 2.0, title=name)]
    for svg in (row_chart([ChartRow(name, 0.5)], label="rows"), line_chart([ChartLine(name, points)], label="lines")):
        assert not [each for each in svg if each not in "\n\t" and unicodedata.category(each).startswith("C")]
        parsed(svg)


def test_bars_are_as_high_as_their_parts() -> None:
    svg = bar_chart([Bar(0, [3, 1]), Bar(60_000, [0, 2])], ["stored", "rejected"], 60_000, label="events")
    heights = {each.attrib["class"]: float(each.attrib["height"]) for each in parsed(svg).iter("rect")}
    assert math.isclose(heights["bar v-stored"], 1.5 * heights["bar v-rejected"], rel_tol=0.02)
