"""Charts of the console."""

import math
import unicodedata
import xml.etree.ElementTree as ET
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from console.chart_axes import Scale, round_ticks, time_label, time_ticks
from console.charts import (
    HEIGHT,
    NAME_CHARACTERS,
    WIDTH,
    Bar,
    ChartLine,
    ChartRow,
    LinePoint,
    bar_chart,
    line_chart,
    row_chart,
)
from console.screens.learning import reward_chart, weight_chart
from console.text import share

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
NOVEMBER_29_MS = 1_795_910_400_000
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


def labels_of(svg: str) -> list[ET.Element]:
    return list(parsed(svg).iter("text"))


def test_the_last_label_of_an_axis_ends_within_the_drawing() -> None:
    rows = [ChartRow("dense", 0.5, 0.4, 0.6)]
    points = [LinePoint(position, 0.5) for position in range(11)]
    days = [LinePoint(NOVEMBER_29_MS - day * DAY_MS, 0.5) for day in range(3)]
    for svg in (
        row_chart(rows, label="rows", show=share),
        line_chart([ChartLine("", points)], label="line", axis="number"),
        line_chart([ChartLine("", days)], label="line", axis="day"),
    ):
        last = max(labels_of(svg), key=lambda each: float(each.attrib["x"]))
        assert float(last.attrib["x"]) <= WIDTH
        assert last.attrib["text-anchor"] == "end"


def test_long_names_are_cut_at_their_end() -> None:
    name = "text://a-long-name-of-a-collection@v1/embedding"
    svg = row_chart([ChartRow(name, 0.5)], label="rows")
    names = {each.attrib["class"]: each for each in labels_of(svg) if "level" in each.attrib.get("class", "")}
    assert {kind.removeprefix("level ") for kind in names} == set(NAME_CHARACTERS)
    for width, most in NAME_CHARACTERS.items():
        text = names[f"level {width}"].text or ""
        assert (text, len(text)) == (f"{name[: most - 1]}…", most)
    titles = [each.text for each in parsed(svg).iter("title")]
    assert titles == [f"{name}: 0.5"], "the title has the whole name"


def test_a_single_point_is_labelled_by_its_date() -> None:
    for axis, label in (("day", "29 Nov"), ("time", "29 Nov 00:00")):
        svg = line_chart([ChartLine("", [LinePoint(NOVEMBER_29_MS, 0.5)])], label="line", axis=axis)  # type: ignore[arg-type]
        assert labels_of(svg)[-1].text == label


def test_an_axis_of_days_has_days_alone() -> None:
    ticks = time_ticks(NOVEMBER_29_MS - DAY_MS, NOVEMBER_29_MS, is_day=True)
    assert [time_label(each, DAY_MS, is_day=True) for each in ticks] == ["28 Nov", "29 Nov"]
    assert time_label(NOVEMBER_29_MS + HOUR_MS, DAY_MS) == "01:00"


def test_labels_of_values_have_a_place_to_the_left_of_the_axis() -> None:
    svg = line_chart([ChartLine("", [LinePoint(0, 9e6), LinePoint(1, 1e6)])], label="line", show="{:,.0f}".format)
    longest = max(labels_of(svg), key=lambda each: len(each.text or ""))
    assert longest.text == "10,000,000"
    assert float(longest.attrib["x"]) > 10 * 13, "characters of the largest text are about 13 wide"


def test_weights_over_time_are_weights() -> None:
    feature = {"feature_uri": "text", "weight": 0.75, "mean": 0.1, "low": 0.05, "high": 0.2}
    days = [{"day": day, "features": [feature]} for day in ("2026-11-28", "2026-11-29")]
    weights, rewards = (parsed(draw(days, ["text"])) for draw in (weight_chart, reward_chart))
    assert "text 2026-11-28: 75.0 %" in [each.text for each in weights.iter("title")]
    assert not list(weights.iter("polygon")), "a weight has no interval"
    assert "text 2026-11-28: 10.0 %, 5.0 % to 20.0 %" in [each.text for each in rewards.iter("title")]
