"""Reports over HTTP: the rows of the command, of the key's namespace alone, bounded."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from runtime.event_range import CLOCK_AHEAD
from schemas.analytics.catalogue import REPORTS
from tests.http_lab import api_of, with_key
from tests.lab import Lab, click
from tests.reports_lab import rows_of

EVERYTHING = {"since": "1970-01-01"}


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(with_key(lab.settings), "reader") as client:
        yield client


async def test_the_reports_are_described(api: httpx.AsyncClient) -> None:
    listed = (await api.get("/v1/reports")).json()["reports"]
    assert [each["name"] for each in listed] == list(REPORTS)
    overview = next(each for each in listed if each["name"] == "overview")
    assert overview["view"] == "report_overview"
    assert overview["parameters"][0]["choices"] == ["hour", "day", "week", "all"]
    ctr = next(column for column in overview["columns"] if column["name"] == "ctr")
    assert (ctr["unit"], ctr["support"], ctr["has_interval"]) == ("share", "with_results", True)


async def test_a_report_has_the_rows_of_its_definition(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.emit(click("a", interaction_type=["impression"]), click("a"), click("b", "exec-2"))
    await lab.drain()
    for name in ("positions", "features", "retrievers", "funnel"):
        answer = (await api.get(f"/v1/reports/{name}", params=EVERYTHING)).json()
        assert answer["rows"] == await rows_of(lab, name), name
        assert (answer["report"], answer["namespace"], answer["truncated"]) == (name, "default", False)
    chosen = {**EVERYTHING, "filters": '{"feature_id": "a"}', "columns": "feature_id,ctr", "sort": "ctr:desc"}
    answer = (await api.get("/v1/reports/features", params=chosen)).json()
    assert [(row["feature_id"], row["ctr"], len(row)) for row in answer["rows"]] == [("a", 1.0, 4)]
    assert answer["filters"] == "feature_id = a"
    cut = (await api.get("/v1/reports/features", params={**EVERYTHING, "limit": 1})).json()
    assert (len(cut["rows"]), cut["truncated"]) == (1, True)


async def test_a_range_of_the_last_days_and_the_reasons_for_no_rows(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.emit(click("a", interaction_type=["impression"]))
    await lab.drain()
    answer = (await api.get("/v1/reports/features", params={"days": 2})).json()
    since, until = (datetime.fromisoformat(answer[end]) for end in ("since", "until"))
    assert (len(answer["rows"]), answer["filters"], until - since) == (1, None, timedelta(days=2) + CLOCK_AHEAD)
    answer = (await api.get("/v1/reports/features", params={"hours": 1, "filters": '{"metadata.os": "x"}'})).json()
    assert (answer["rows"], answer["notes"][1:]) == ([], ["none of the 1 events in this range has metadata.os"])
    assert answer["notes"][0].endswith(", where metadata.os = x")
    refused = await api.get("/v1/reports/compare", params={"a": "dense", "b": "x", "of": "feature_id"})
    assert "query.a: 'dense' has no executions in this range; feature_id has a (1 executions)" in refused.text


@pytest.mark.parametrize(
    ("name", "query", "status", "says"),
    [
        ("nothing", {}, 404, "'nothing' is not a report"),
        ("overview", {"by": "minute"}, 422, "'minute' is not a field"),
        ("overview", {"filters": "{"}, 422, "is not JSON"),
        ("overview", {"since": "2026-02-02", "until": "2026-02-01"}, 422, "is not later than since"),
        ("overview", {"since": "2026-02-02", "days": 1}, 422, "choose one of since, days and hours"),
        ("overview", {"days": 0}, 422, "days"),
        ("overview", {"filters": '{"event_time": 1}'}, 422, "occurred_at where the sender gave it, else timestamp"),
        ("overveiw", {}, 404, "did you mean overview?"),
        ("overview", {"since": "soon"}, 422, "since"),
        ("overview", {"sort": "x"}, 422, "is not a column"),
        ("overview", {"unknown": "x"}, 422, "unknown"),
        ("verdicts", {"filters": '{"user_id": "a"}'}, 422, "query.filters: the report verdicts cannot be filtered"),
        ("queries", {"min_executions": -1}, 422, "must be from 1 to 2,147,483,648"),
        ("compare", {"a": "x"}, 422, "is needed by the report compare"),
        ("compare", {"a": "x", "b": "y", "effect": "nan"}, 422, "effect"),
    ],
)
async def test_a_request_that_cannot_be_answered_names_its_parameter(
    api: httpx.AsyncClient, name: str, query: dict[str, Any], status: int, says: str
) -> None:
    answer = await api.get(f"/v1/reports/{name}", params=query)
    assert answer.status_code == status, answer.text
    assert says in answer.text
