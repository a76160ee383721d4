"""Tables of reports: the caption names what is compared; a narrow table keeps the column that rows are sorted by."""

from datetime import UTC, datetime

import pytest

from readers.reports import ReportRequest, ReportResult
from schemas.analytics.catalogue import REPORTS
from tally.report_output import by_importance, numeric, scope


def result(name: str, sort: str = "", **parameters: str) -> ReportResult:
    since, until = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 8, tzinfo=UTC)
    request = ReportRequest(name, "shop", since, until, parameters, sort=sort)
    return ReportResult(REPORTS[name], request, [], is_truncated=False)


def test_the_caption_names_the_groups_that_are_compared() -> None:
    shown = scope(result("compare", a="dense", b="hybrid"))
    assert shown.startswith("a = dense, b = hybrid, shop, 2026-03-01 00:00 to 2026-03-08 00:00 UTC")


@pytest.mark.parametrize("sort", ["zero_result_rate:desc", "zero_result_rate_low"])
def test_the_column_that_rows_are_sorted_by_is_left_out_last(sort: str) -> None:
    assert by_importance(result("queries"))[:3] == ["text", "executions", "ctr"]
    assert by_importance(result("queries", sort))[:3] == ["text", "executions", "zero_result_rate"]


def test_columns_of_numbers_are_those_that_hold_no_text_and_no_time() -> None:
    found = result("sessions")
    names = [found.report.columns[number].name for number in numeric(found)]
    assert names == ["executions", "clicks", "purchases", "reward", "duration_ms"]
