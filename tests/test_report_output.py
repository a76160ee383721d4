"""Tables of reports: the caption names what is compared; a narrow table keeps the column that rows are sorted by."""

from datetime import UTC, datetime, timedelta

import pytest

from readers.filter_text import read_filter
from readers.report_notes import cut_periods
from readers.report_statement import ReportRequest
from readers.reports import ReportResult
from schemas.analytics.catalogue import REPORTS
from tally.report_output import by_importance, cells, headers, numeric, scope

SINCE, UNTIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 8, tzinfo=UTC)


def result(name: str, sort: str = "", where: str = "", **parameters: str | float) -> ReportResult:
    filters = read_filter(where) if where else None
    request = ReportRequest(name, "shop", SINCE, UNTIL, parameters, filters, sort=sort)
    return ReportResult(REPORTS[name], request, [], is_truncated=False)


def of_periods(since: datetime, until: datetime, *periods: datetime, by: str | None = None) -> ReportResult:
    """A count of types over periods."""
    report = REPORTS["types"]
    rows = [[period, "click", 1] for period in periods]
    return ReportResult(report, ReportRequest("types", "shop", since, until, {"by": by}), rows, is_truncated=False)


def test_the_caption_names_the_groups_that_are_compared() -> None:
    shown = scope(result("compare", a="dense", b="hybrid"))
    assert shown.startswith("a = dense, b = hybrid, shop, 2026-03-01 00:00 to 2026-03-08 00:00 UTC")
    assert shown.endswith("; users: by user_id, else session_id, else execution_id; users_needed is per group")


def test_the_caption_names_the_filters() -> None:
    shown = scope(result("positions", where="metadata.device!=ios"))
    assert shown == (
        "shop, 2026-03-01 00:00 to 2026-03-08 00:00 UTC, where metadata.device != ios; in brackets 95 % intervals"
    )


def test_the_caption_ends_now_at_the_latest() -> None:
    found = result("positions")
    request = found.request._replace(until=datetime(2200, 1, 1, tzinfo=UTC))
    assert f"to {datetime.now(UTC):%Y-%m-%d}" in scope(found._replace(request=request))


def test_a_column_that_a_parameter_sets_is_left_out_last() -> None:
    assert "users_needed" not in by_importance(result("compare", a="x", b="y"))[:5]
    assert "users_needed" in by_importance(result("compare", a="x", b="y", effect=0.03))[:5]


def test_columns_that_name_a_row_are_kept() -> None:
    assert result("retrievers").with_columns(("mrr", "ctr")).columns[0] == "retriever_id"
    assert result("features").with_columns(("ctr", "feature_id")).columns[-1] == "feature_id"
    for report in REPORTS.values():
        assert report.keys
        assert set(report.keys) <= set(report.all_columns())


def test_periods_that_the_range_cuts_are_named() -> None:
    since, until = SINCE + timedelta(hours=17, minutes=59), SINCE + timedelta(days=2, hours=3)
    days = [SINCE + timedelta(days=number) for number in range(3)]
    assert cut_periods(of_periods(since, until, *days)) == [
        "not whole, because of the range: 2026-03-01 begins at 2026-03-01 17:59, 2026-03-03 ends at 2026-03-03 03:00"
    ]
    assert cut_periods(of_periods(since, until, days[1])) == [], "its rows were left out"
    assert cut_periods(of_periods(SINCE, SINCE + timedelta(days=3), *days)) == []
    assert cut_periods(of_periods(since, until, since, by="all")) == []
    week = datetime(2026, 2, 23, tzinfo=UTC)
    (note,) = cut_periods(of_periods(SINCE, week + timedelta(days=7), week, by="week"))
    assert note.endswith(": 2026-02-23 begins at 2026-03-01 00:00")


def test_a_field_names_its_column_and_all_together_are_all() -> None:
    report = REPORTS["overview"]
    texts = report._replace(columns=(report.columns[0]._replace(unit="text"), *report.columns[1:]))
    assert headers(result("overview", by="metadata.device")._replace(report=texts))[0] == "metadata.device"
    assert headers(result("overview", by="day"))[0] == "period"
    (row,) = cells(of_periods(SINCE, UNTIL, SINCE, by="all"))
    assert row[0] == "all"


@pytest.mark.parametrize("sort", ["zero_result_rate:desc", "zero_result_rate_low"])
def test_the_column_that_rows_are_sorted_by_is_left_out_last(sort: str) -> None:
    assert by_importance(result("queries"))[:3] == ["text", "executions", "ctr"]
    assert by_importance(result("queries", sort))[:3] == ["text", "executions", "zero_result_rate"]


def test_columns_of_numbers_are_those_that_hold_no_text_and_no_time() -> None:
    found = result("sessions")
    names = [found.report.columns[number].name for number in numeric(found)]
    assert names == ["executions", "clicks", "purchases", "reward", "duration_ms"]
