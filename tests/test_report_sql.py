"""SQL of reports: run as it is by the analyst, it gives the rows of the answer."""

import json
from datetime import datetime
from typing import Any

import httpx
import pytest

from runtime.analyst import analyst_result
from runtime.settings import Settings
from schemas.analytics.catalogue import REPORTS
from tests.http_lab import api_of, with_key
from tests.lab import Lab, click
from tests.test_reports import options, shown_results

ODD = "it's {p0:String} \\ \t\n%s 'é"
"""Text that each layer in between could change: quotes, placeholders, escapes."""
FILTERS: dict[str, Any] = {
    "AND": [
        {"field": "feature_id", "operator": "ne", "value": ODD},
        {"field": "position", "operator": "in", "value": [0, 1, 2, 3]},
        {"field": "position", "operator": "lt", "value": 10**30},
        {"field": "feature_id", "operator": "regex", "value": "^[a-e]$"},
        {"field": "timestamp", "operator": "gt", "value": "2020-01-01T00:00:00.001Z"},
    ]
}


async def rows_for(settings: Settings, sql: str) -> list[dict[str, Any]]:
    """Run a statement as `tally sql` does, and return its rows."""
    async with analyst_result(settings, sql, {}, "JSONEachRow") as result:
        text = b"".join([piece async for piece in result.pieces])
    return [json.loads(line) for line in text.splitlines()]


def plain(value: Any) -> Any:
    """Return a value of either form in a common one: times as ClickHouse prints them, integers as numbers."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, str) and value.endswith("Z"):
        moment = datetime.fromisoformat(value)
        return f"{moment:%Y-%m-%d %H:%M:%S}" if not moment.microsecond else f"{moment:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return int(value) if isinstance(value, str) and value.isdecimal() else value


async def compare(api: httpx.AsyncClient, lab: Lab, name: str, **query: Any) -> str:
    """Check that the SQL of a report gives the rows of the answer; return it."""
    few = {"min_executions": 1} if name == "queries" else {}
    params = {"since": "2020-01-01", "include_sql": "true", **few, **query}
    answer = (await api.get(f"/v1/reports/{name}", params=params)).json()
    assert answer.get("rows"), (name, answer)
    assert plain(await rows_for(lab.settings, answer["sql"])) == plain(answer["rows"]), answer["sql"]
    return str(answer["sql"])


async def test_the_sql_of_every_report_gives_its_rows(lab: Lab) -> None:
    await shown_results(lab)
    await lab.emit(click("a", "exec-9", session_id="s", interaction_type=["impression"], user_id="u"))
    await lab.drain()
    async with api_of(with_key(lab.settings), "reader") as api:
        for name in REPORTS:
            sql = await compare(api, lab, name, **options(name))
            assert (f"FROM report_{name}(" in sql) == (name != "compare"), "a report by a field has no view"
        for name in set(REPORTS) - {"verdicts", "compare", "journey"}:
            await compare(api, lab, name, filters=json.dumps(FILTERS))
        by_retriever = await compare(api, lab, "overview", by="retriever_id", sort="executions:desc", limit=1)
        assert "report_overview" not in by_retriever
        cut = await compare(api, lab, "features", columns="ctr", sort="impressions:desc", limit=2)
        assert cut.startswith("SELECT feature_id, ctr, ctr_low, ctr_high FROM report_features(")
        assert cut.endswith("ORDER BY impressions desc NULLS LAST, " + REPORTS["features"].order + " LIMIT 2")


@pytest.mark.parametrize(
    "session", [ODD, "it's {namespace:String}", "a\\b", "ends with \\", "a\u0000b", "\U0001f600 \u202e", "'--/*\r\n"]
)
async def test_texts_of_the_request_are_literals(lab: Lab, session: str) -> None:
    await lab.emit(click("a", session_id=session), click("b", "exec-2", session_id="other"))
    await lab.drain()
    async with api_of(with_key(lab.settings), "reader") as api:
        assert "FROM report_journey(" in await compare(api, lab, "journey", session=session)
        condition = {"field": "session_id", "operator": "eq", "value": session}
        await compare(api, lab, "features", filters=json.dumps({"AND": [condition]}))


async def test_without_a_wish_for_it_there_is_no_sql(shared_api: httpx.AsyncClient) -> None:
    assert "sql" not in (await shared_api.get("/v1/reports/types")).json()
    assert "sql" not in (await shared_api.get("/v1/reports/types", params={"include_sql": "false"})).json()
    refused = await shared_api.get("/v1/reports/types", params={"include_sql": "perhaps"})
    assert refused.status_code == 422
