"""Charts show what their rows support: intervals, gaps, no point of a few observations, and names as they are."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from readers.reports import ReportRequest, ReportResult
from runtime.errors import TallyError
from schemas.analytics.catalogue import REPORTS
from tally.plot import MAX_CATEGORIES, Point, _points, _runs, _step, draw

DAY = datetime(2026, 3, 1, tzinfo=UTC)
NO_VALUES = {"text": "", "time": DAY, "texts": []}


def result(name: str, *rows: dict[str, Any], **parameters: Any) -> ReportResult:
    """Rows of a report with these values; others are 0, or empty."""
    report = REPORTS[name]
    empty = {column.name: NO_VALUES.get(column.unit, 0) for column in report.columns}
    ends = dict.fromkeys(set(report.all_columns()) - set(empty), 0.0)
    values = [[({**empty, **ends, **row})[column] for column in report.all_columns()] for row in rows]
    request = ReportRequest(name, "shop", DAY, DAY + timedelta(days=7), parameters)
    return ReportResult(report, request, values, is_truncated=False)


def day(number: int, support: int = 100, ctr: float = 0.5) -> dict[str, Any]:
    """A day of the overview."""
    values = {"ctr": ctr, "ctr_low": ctr - 0.1, "ctr_high": ctr + 0.1}
    return {"period": DAY + timedelta(days=number), "with_results": support, **values}


def points_of(found: ReportResult, min_support: int = 30) -> list[Point]:
    chart = found.report.chart
    assert chart is not None
    return _points(found, chart, min_support)


def texts(path: Path) -> list[str]:
    """The texts in an SVG file."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("SVG", b"<?xml")])
def test_the_suffix_chooses_the_format(tmp_path: Path, suffix: str, begin: bytes) -> None:
    path = tmp_path / f"chart.{suffix}"
    draw(result("overview", day(0), day(1)), path, min_support=30)
    assert path.read_bytes().startswith(begin)


@pytest.mark.parametrize("name", [name for name, report in REPORTS.items() if report.chart])
def test_every_chart_is_drawn_and_says_what_it_shows(tmp_path: Path, name: str) -> None:
    chart, rates = REPORTS[name].chart, {"users_a": 99, "users_b": 99, "a": 1.0}
    assert chart is not None
    support = {column.support: 100 for column in REPORTS[name].columns if column.support}
    row = {**rates, chart.y: 0.5} if chart.kind == "differences" else {chart.y: 0.5}
    known = REPORTS[name].all_columns()
    draw(
        result(name, {key: value for key, value in {**support, **row}.items() if key in known}, a="old", b="new"),
        tmp_path / "chart.svg",
        min_support=30,
    )
    shown = texts(tmp_path / "chart.svg")
    title = "new compared with old" if name == "compare" else chart.title
    assert any(text.startswith(title) for text in shown), shown
    assert "shop, 2026-03-01 00:00 to 2026-03-08 00:00 UTC" in shown


def test_a_point_of_few_observations_is_not_drawn() -> None:
    found = result("overview", day(0), day(1, support=29), day(2, support=30))
    assert [point.x for point in points_of(found)] == [DAY, DAY + timedelta(days=2)]
    assert points_of(found)[0][1:4] == pytest.approx((0.5, 0.4, 0.6))


def test_a_difference_from_a_negative_mean_keeps_its_sign() -> None:
    row = {"metric": "reward", "a": -2.0, "users_a": 99, "users_b": 99}
    values = {"difference": 1.0, "difference_low": 0.5, "difference_high": 1.5}
    (point,) = points_of(result("compare", {**row, **values}, a="old", b="new"))
    assert point[1:4] == (0.5, 0.25, 0.75)


def test_a_chart_without_points_is_a_note_and_no_file(tmp_path: Path) -> None:
    for rows in ([], [day(0, support=2)]):
        note = draw(result("overview", *rows), tmp_path / "chart.png", min_support=30)
        assert note == "no chart: no row has 30 observations (--min-support)"
        assert not list(tmp_path.iterdir())


def test_no_line_is_drawn_through_a_missing_period() -> None:
    points = points_of(result("overview", day(0), day(1), day(4), day(5), day(9)))
    runs = [[(point.x - DAY).days for point in run] for run in _runs(points, _step(points))]
    assert runs == [[0, 1], [4, 5], [9]]


def test_names_are_drawn_as_they_are_and_never_as_a_formula(tmp_path: Path) -> None:
    names = [r"$\frac$", "$unclosed", "\x1b[31mred", "Größe", "عربى", "x" * 500, ""]
    rows = [{"retriever_id": name, "with_results": 100, "ctr": 0.5} for name in names]
    draw(result("retrievers", *rows), tmp_path / "names.svg", min_support=30)
    shown = texts(tmp_path / "names.svg")
    assert {r"$\frac$", "$unclosed", "Größe", "عربى", "(empty)", "x" * 39 + "…"} <= set(shown)
    assert not any("\x1b" in text for text in shown)


def test_as_many_names_as_fit_are_drawn_and_the_others_counted(tmp_path: Path) -> None:
    rows = [{"text": f"query {number}", "with_results": 100, "ctr": 0.5} for number in range(60)]
    note = draw(result("queries", *rows), tmp_path / "queries.svg", min_support=30)
    assert "; 35 rows are not drawn" in note
    assert sum(text.startswith("query ") for text in texts(tmp_path / "queries.svg")) == MAX_CATEGORIES


def test_a_chart_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TallyError, match="the report sessions has no chart"):
        draw(result("sessions"), tmp_path / "chart.png", min_support=1)
    narrow = result("overview", day(0))
    narrow = narrow._replace(report=narrow.report._replace(columns=narrow.report.columns[:1]))
    with pytest.raises(TallyError, match="--columns lacks ctr, with_results, which the chart needs"):
        draw(narrow, tmp_path / "chart.png", min_support=1)
    compared = result("compare", a="old", b="new")
    compared = compared._replace(report=compared.report._replace(columns=compared.report.columns[1:5]))
    with pytest.raises(TallyError, match="--columns lacks users_a, users_b, which the chart needs"):
        draw(compared, tmp_path / "chart.png", min_support=1)
    with pytest.raises(TallyError, match=r"cannot write .*: No such file or directory"):
        draw(result("overview", day(0)), tmp_path / "missing" / "chart.png", min_support=1)
