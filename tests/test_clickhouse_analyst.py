"""The analyst, a user of ClickHouse who can only read Tally's tables."""

import threading
from collections.abc import AsyncIterator

import clickhouse_connect
import httpx
import pytest

from deploy.embedded.stack import Stack
from schemas.analytics.catalogue import RANGED_VIEWS, REPORTS
from schemas.analytics.definition import Report
from schemas.tables import INTERACTIONS, OUTCOMES
from tests.clickhouse_lab import DEADLINE_S, Front, code_of, front_of
from tests.hostile_sql import FORBIDDEN_READS

REFUSED = {"497", "164", "62"}
"""Not granted, readonly, no statement."""
SETTINGS = {
    "readonly": "0",
    "max_execution_time": "7",
    "allow_introspection_functions": "0",
    "log_comment": "x",
    "max_memory_usage": "7",
}


@pytest.fixture(scope="module")
async def front(stack: Stack) -> AsyncIterator[Front]:
    """The front that the tests of this file ask."""
    async with front_of(stack) as found:
        yield found


def more(report: Report) -> str:
    """The further parameters of a report's view, each with its default."""
    values = {name: "s" if value is None else value for name, value in report.defaults().items()}
    return "".join(f", {name} = '{value}'" for name, value in values.items())


def test_an_analyst_reads_tables_and_views(stack: Stack, front: Front) -> None:
    client = clickhouse_connect.get_client(dsn=stack.stack_file().endpoints.analyst, database="tally")
    ranged = "namespace = 'default', since = '2026-01-01', until = {until:DateTime64(3)}"
    reports = (
        f"{each.view}({ranged}{more(each)})" for each in REPORTS.values() if each.name not in ("funnel", "health")
    )
    plain = ("events", *(f"all_{name}" for name in RANGED_VIEWS))
    for table in (INTERACTIONS, OUTCOMES, *plain, *(f"{view}({ranged})" for view in RANGED_VIEWS), *reports):
        assert client.query(f"SELECT count() FROM {table}", {"until": "2026-02-01"}).result_rows == [(0,)], table
    assert {INTERACTIONS, OUTCOMES} <= {row[0] for row in client.query("SHOW TABLES").result_rows}
    assert len(client.query("SELECT name FROM system.columns WHERE table = 'interactions'").result_rows) > 15


@pytest.mark.parametrize("sql", FORBIDDEN_READS)
def test_an_analyst_has_no_other_rights(front: Front, sql: str) -> None:
    assert code_of(front.analyst.post("/", content=sql)) in REFUSED


def test_an_analyst_sets_nothing_and_names_no_other_database(front: Front) -> None:
    for name, value in SETTINGS.items():
        assert code_of(front.analyst.post("/", params={name: value}, content="SELECT 1")) == "164", name
    for params, sql in (
        ({"database": "system"}, "SELECT * FROM processes"),
        ({"param_t": "processes", "param_d": "system"}, "SELECT * FROM {d:Identifier}.{t:Identifier}"),
    ):
        assert code_of(front.analyst.post("/", params=params, content=sql)) == "497", sql


def test_an_analyst_does_not_see_other_databases(front: Front) -> None:
    front.owner.post("/", content="CREATE DATABASE others").raise_for_status()
    try:
        front.owner.post("/", content="CREATE TABLE others.others (a Int8) ENGINE = Memory").raise_for_status()
        assert code_of(front.analyst.post("/", content="SELECT * FROM others.others")) == "497"
        seen = front.analyst.post("/", content="SELECT name FROM system.tables WHERE name IN ('others', 'api_keys')")
        assert (seen.status_code, seen.text) == (200, "")
    finally:
        front.owner.post("/", content="DROP DATABASE others").raise_for_status()


def test_an_analyst_does_not_end_the_query_of_another_user(front: Front) -> None:
    """Although it chooses the same query id and disconnects."""

    def slow(http: httpx.Client, timeout_s: float) -> httpx.Response:
        sql = "SELECT count() FROM numbers(3) WHERE NOT sleepEachRow(0.5)"
        return http.post("/", params={"query_id": "same"}, content=sql, timeout=timeout_s)

    found: list[httpx.Response] = []
    running = threading.Thread(target=lambda: found.append(slow(front.owner, DEADLINE_S)))
    running.start()
    with pytest.raises(httpx.ReadTimeout):
        slow(front.analyst, 0.3)
    running.join()
    assert found[0].text == "3\n"
