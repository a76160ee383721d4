"""Charts show what their rows support: intervals, gaps, no point of a few observations, and names as they are."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from readers.filter_text import read_filter
from readers.report_statement import ReportError, ReportRequest, grouped
from readers.reports import ReportResult
from runtime.errors import TallyError
from schemas.analytics.catalogue import REPORTS
from tally.plot import MAX_CATEGORIES, _points, chosen_chart, draw
from tally.plot_axes import MAX_SERIES, Point, runs_of, step_of

DAY = datetime(2026, 3, 1, tzinfo=UTC)
NO_VALUES = {"text": "", "time": DAY, "texts": []}


def result(name: str, *rows: dict[str, Any], sort: str = "", where: str = "", **parameters: Any) -> ReportResult:
    """Rows of a report with these values; others are 0, or empty."""
    report = REPORTS[name]
    empty = {column.name: NO_VALUES.get(column.unit, 0) for column in report.columns}
    ends = dict.fromkeys(set(report.all_columns()) - set(empty), 0.0)
    values = [[({**empty, **ends, **row})[column] for column in report.all_columns()] for row in rows]
    request = ReportRequest(name, "shop", DAY, DAY + timedelta(days=7), parameters, sort=sort)
    request = request._replace(filters=read_filter(where) if where else None)
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
    runs = [[(point.x - DAY).days for point in run] for run in runs_of(points, step_of(points))]
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
    assert note.endswith("; not drawn: 35 names after the first 25")
    assert sum(text.startswith("query ") for text in texts(tmp_path / "queries.svg")) == MAX_CATEGORIES


@pytest.mark.parametrize(
    ("options", "column"),
    [
        ({}, "ctr"),
        ({"column": "ms_to_click"}, "ms_to_click"),
        ({"among": ("executions", "abandonment")}, "abandonment"),
        ({"among": ("mrr", "abandonment")}, "ctr"),
        ({"sort": "zero_result_rate_low:desc", "among": ("mrr",)}, "zero_result_rate"),
        ({"sort": "executions:desc"}, "ctr"),
    ],
)
def test_the_column_to_draw_is_the_named_the_sorted_or_the_only_chosen_one(
    tmp_path: Path, options: dict[str, Any], column: str
) -> None:
    sort = options.pop("sort", "")
    support = {"with_results": 100, "executions": 100, "with_clicks": 100}
    found = result("retrievers", {"retriever_id": "a", **support, column: 0.5}, sort=sort)
    assert chosen_chart(found, **options).y == column
    draw(found, tmp_path / "chart.svg", min_support=30, **options)
    assert any(text.startswith(column.replace("_", " ")) for text in texts(tmp_path / "chart.svg"))


def test_a_column_without_an_interval_is_not_drawn() -> None:
    with pytest.raises(ReportError, match="plot_column: 'executions' cannot be drawn; choose ctr, mrr"):
        chosen_chart(result("overview", day(0)), "executions")
    with pytest.raises(ReportError, match="plot_column: 'p_value' cannot be drawn; choose difference"):
        chosen_chart(result("compare", a="old", b="new"), "p_value")


def test_the_subtitle_has_filters_notes_and_omitted_rows(tmp_path: Path) -> None:
    found = result("overview", day(0), day(1, support=2), where="metadata.device=ios")._replace(notes=["not whole"])
    note = draw(found, tmp_path / "chart.svg", min_support=30)
    shown = texts(tmp_path / "chart.svg")
    left_out = "not drawn: 1 row with fewer than 30 observations (--min-support)"
    assert "shop, 2026-03-01 00:00 to 2026-03-08 00:00 UTC, where metadata.device = ios" in shown
    assert {"not whole", left_out, "01 Mar"} <= set(shown)
    assert note.endswith(f"; {left_out}")


def test_a_field_is_named_in_the_title(tmp_path: Path) -> None:
    found = result("overview", {**day(0), "period": "ios"}, by="metadata.device")
    first, *others = found.report.columns
    found = found._replace(report=found.report._replace(columns=(first._replace(unit="text"), *others)))
    draw(found, tmp_path / "chart.svg", min_support=30)
    title = "Click-through rate of executions by metadata.device, with 95 % intervals"
    assert title in texts(tmp_path / "chart.svg")
    assert chosen_chart(found, "ms_to_click").title.endswith("first click, by metadata.device")


def test_values_of_a_field_are_series_side_by_side(tmp_path: Path) -> None:
    report = grouped(REPORTS["positions"], {"by": "metadata.device"})
    rows = [[position, device, 100, 5, 0, 0.5, 0.4, 0.6] for position in (0, 1) for device in ("ios", "web")]
    request = result("positions", by="metadata.device").request
    draw(ReportResult(report, request, rows, is_truncated=False), tmp_path / "chart.svg", min_support=30)
    title = "Click-through rate by position and metadata.device, with 95 % intervals"
    assert {"ios", "web", title} <= set(texts(tmp_path / "chart.svg"))


def test_the_lines_that_are_left_out_are_counted(tmp_path: Path) -> None:
    rows = [{"period": DAY, "type": f"type-{number:02}", "interactions": number + 1} for number in range(17)]
    note = draw(result("types", *rows), tmp_path / "types.svg", min_support=1)
    assert note.endswith("; 8 of 17 values of type are drawn: those with the most interactions")
    assert [text for text in texts(tmp_path / "types.svg") if text.startswith("type-")] == [
        f"type-{number:02}" for number in range(16, 16 - MAX_SERIES, -1)
    ]


def test_an_interval_that_leaves_the_chart_has_an_arrowhead(tmp_path: Path) -> None:
    row = {"metric": "ctr", "a": 0.1, "users_a": 99, "users_b": 99}
    values = {"difference": 0.08, "difference_low": -0.01, "difference_high": 0.2}
    note = draw(result("compare", {**row, **values}, a="x", b="y"), tmp_path / "cut.svg", min_support=30)
    assert note.endswith("; arrowheads: the interval continues")
    assert (tmp_path / "cut.svg").read_text().count('id="cut"') == 1
    note = draw(
        result("compare", {**row, **values, "difference_high": 0.09}, a="x", b="y"), tmp_path / "a.svg", min_support=1
    )
    assert note.endswith("a.svg")


def test_bars_name_the_step_that_a_share_is_of(tmp_path: Path) -> None:
    steps = [{"name": "click", "executions": 200, "share_of_previous": 0.25}]
    draw(result("funnel", *steps), tmp_path / "funnel.svg", min_support=30)
    assert "200 (25.0% of the previous step)" in texts(tmp_path / "funnel.svg")


def test_a_chart_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TallyError, match="the report sessions has no chart"):
        draw(result("sessions"), tmp_path / "chart.png", min_support=1)
    with pytest.raises(TallyError, match=r"cannot write .*: No such file or directory"):
        draw(result("overview", day(0)), tmp_path / "missing" / "chart.png", min_support=1)
