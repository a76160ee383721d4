"""Reports: each event counts once, rates have intervals, and a request that cannot be answered says what to change."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from readers.filter_text import read_filter
from readers.report_statement import ReportError
from runtime.errors import Fatal
from schemas.analytics.catalogue import REPORTS, views
from schemas.wire import encode_headers
from tests.lab import Lab, as_json, click
from tests.reports_lab import made, only, rows_of

REQUIRED = {"compare": {"a": "r1", "b": "r2"}, "journey": {"session": "s"}}


def options(name: str) -> dict[str, Any]:
    """The parameters that a report cannot do without."""
    return dict(REQUIRED.get(name, {}))


async def shown_results(lab: Lab) -> None:
    def event(feature: str, kinds: list[str], position: int, retriever: str, **fields: Any) -> Any:
        return click(feature, interaction_type=kinds, position=position, retriever_id=retriever, **fields)

    await lab.emit(
        event("a", ["impression"], 0, "r1"),
        event("a", ["click"], 0, "r1"),
        event("a", ["view", "click"], 0, "r1"),
        event("b", ["impression"], 1, "r1"),
        event("c", ["impression", "click"], 1, "r2", execution="exec-2"),
        event("d", ["click"], 2, "r2", execution="exec-2"),
        event("e", ["purchase", "purchase"], 3, "r2", execution="exec-2"),
        event("a", ["impression"], 0, "r1"),
    )
    await lab.put(as_json(position=-1), headers=encode_headers("default"))
    await lab.drain()


async def test_click_through_counts_clicks_without_impressions_separately(lab: Lab) -> None:
    await shown_results(lab)
    columns = "impressions", "clicks", "clicks_without_impression", "ctr"
    assert await only(lab, "positions", "position", *columns) == [
        (0, 1, 1, 0, 1.0),
        (1, 2, 1, 0, 0.5),
        (2, 0, 0, 1, None),
    ]
    assert await only(lab, "features", "feature_id", *columns) == [
        ("a", 1, 1, 0, 1.0),
        ("b", 1, 0, 0, 0.0),
        ("c", 1, 1, 0, 1.0),
        ("d", 0, 0, 1, None),
    ]


async def test_the_position_of_a_click_is_that_of_its_result(lab: Lab) -> None:
    """Position: the smallest of its impressions, else of all its events. The earliest click is the first."""
    began = datetime.now(UTC) - timedelta(hours=1)
    events = (
        ("a", ["click"], 9, 4), ("a", ["impression"], 3, 1), ("a", ["impression", "dwell"], 2, 2),
        ("b", ["click"], 6, 3), ("b", ["view"], 5, 9), ("a", ["click", "dwell"], 1, 6), ("c", ["impression"], 0, 0),
        ("z", ["zero_results"], 0, 8),
    )  # fmt: skip
    for feature, kinds, position, second in events:
        at = began + timedelta(seconds=second)
        await lab.emit(click(feature, interaction_type=kinds, position=position, occurred_at=at))
    await lab.drain()
    found = await lab.rows(
        "SELECT results_shown, clicks, first_click_position, highest_click_position, ms_to_first_click, dwell_ms, "
        "zero_results, abandoned, round(ndcg * (1 + 1 / log2(3)), 9) = round(1 / log2(4) + 1 / log2(7), 9) "
        "FROM all_executions"
    )
    assert found == [(2, 2, 5, 2, 3_000, 6_000, 1, False, 1)]


async def test_retrievers_have_the_metrics_of_their_executions(lab: Lab) -> None:
    await shown_results(lab)
    names = "executions", "ctr", "mrr", "mean_clicks", "conversion", "reward"
    assert await only(lab, "retrievers", "retriever_id", *names) == [
        ("r1", 1, 1.0, 1.0, 1.0, 0.0, 2.0),
        ("r2", 1, 1.0, 0.5, 2.0, 1.0, 7.0),  # the types of one event are capped together, at 5
    ]


async def test_reports_count_types_and_verdicts(lab: Lab) -> None:
    await shown_results(lab)
    counts = dict(await only(lab, "types", "type", "interactions"))
    assert counts == {"impression": 3, "click": 4, "view": 1, "purchase": 1}
    assert await only(lab, "verdicts", "stored", "duplicates", "rejected", by="all") == [(7, 1, 1)]


async def test_reports_count_repeated_rows_once_and_omit_other_namespaces(lab: Lab) -> None:
    await shown_results(lab)
    before = {name: await rows_of(lab, name, **options(name)) for name in REPORTS}
    await lab.database.command("INSERT INTO interactions SELECT * FROM interactions")
    await lab.database.command("INSERT INTO outcomes SELECT * FROM outcomes")
    for name, rows in before.items():
        assert await rows_of(lab, name, **options(name)) == rows, name
    for name in REPORTS.keys() - {"health", "funnel"}:
        assert await rows_of(lab, name, "other", **options(name)) == [], name
    assert {row["of"] for row in await rows_of(lab, "health", "other")} == {0}
    assert {row["executions"] for row in await rows_of(lab, "funnel", "other")} == {0}


async def test_deleted_events_are_in_no_report(lab: Lab) -> None:
    await shown_results(lab)
    tombstones = "SELECT * REPLACE (1 AS version, 1 AS is_deleted) FROM interactions WHERE feature_id = 'c'"
    await lab.database.command(f"INSERT INTO interactions {tombstones}")
    assert await only(lab, "positions", "impressions") == [(1,), (1,), (0,)]
    assert dict(await only(lab, "types", "type", "interactions"))["impression"] == 2
    assert await only(lab, "verdicts", "stored", by="all") == [(6,)]


async def test_a_view_gives_the_rows_of_its_report(lab: Lab) -> None:
    await shown_results(lab)
    ranged = "namespace = 'default', since = '1970-01-01', until = '2100-01-01'"
    for name, report in REPORTS.items():
        values = {**report.defaults(), **options(name)}
        more = "".join(f", {parameter} = '{value}'" for parameter, value in values.items() if parameter != "of")
        columns = ", ".join(report.all_columns())
        found = await lab.rows(f"SELECT {columns} FROM {report.view}({ranged}{more}) ORDER BY {report.order}")
        wanted = [tuple(row) for row in (await made(lab, name, **options(name))).rows]
        if name != "health":  # its silent hours depend on the end of the range
            assert repr(found) == repr(wanted), name


async def test_a_report_of_a_day_reads_a_day(lab: Lab) -> None:
    """Each report and plain view, of one tenant's rows over a year, reads a small part."""
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, timestamp, _event_time_ms, _offset) "
        "SELECT 'default', concat('int_', leftPad(toString(number), 32, '0')), "
        "toDateTime64('2026-01-01', 3, 'UTC') + toIntervalSecond(intDiv(number * 86400 * 365, 1000000)) AS at, "
        "toUnixTimestamp64Milli(at), number FROM numbers(1000000)"
    )
    day = "since = '2026-06-01 00:00:00', until = '2026-06-02 00:00:00'"
    read = [f"SELECT * FROM {name}(namespace = 'default', {day})" for name in ("results", "executions")]
    for name, report in REPORTS.items():
        values = {**report.defaults(), **options(name)}
        more = "".join(f", {parameter} = '{value}'" for parameter, value in values.items() if parameter != "of")
        read.append(f"SELECT * FROM {report.view}(namespace = 'default', {day}{more})")
    read.append("SELECT * FROM events WHERE event_time >= '2026-06-01' AND event_time < '2026-06-02'")
    for statement in read:
        rows = await lab.database.rows(f"EXPLAIN ESTIMATE {statement}")
        marks = sum(row[3] for row in rows if row[1] == "interactions")
        assert marks < 1_000_000 / 10, statement  # `health` and `funnel` read their range several times
        assert marks or "session = " in statement  # no session is in that day's bloom filters


async def test_late_events_belong_to_the_day_when_they_happened(lab: Lab) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    await lab.emit(
        click("late", interaction_type=["impression"], occurred_at=day + timedelta(hours=3)),
        click("ahead", None, interaction_type=["impression"], occurred_at=datetime.now(UTC) + timedelta(days=400)),
    )
    await lab.drain()
    assert await only(lab, "types", "period", "interactions", since=day, until=day + timedelta(days=1)) == [(day, 1)]
    today = (await rows_of(lab, "types", since=datetime.now(UTC) - timedelta(hours=1)))[0]
    assert (today["period"].date(), today["interactions"]) == (datetime.now(UTC).date(), 1)


async def test_a_report_is_of_the_events_that_meet_its_condition(lab: Lab) -> None:
    for device, retriever in (("ios", "r1"), ("ios", "r2"), ("web", "r1")):
        shown = click(
            "a",
            f"{device}-{retriever}",
            interaction_type=["impression"],
            retriever_id=retriever,
            metadata={"device": device, "depth": {"n": 3}},
        )
        await lab.emit(shown)
    await lab.drain()
    ios = read_filter("metadata.device=ios")
    assert await only(lab, "retrievers", "retriever_id", filters=ios) == [("r1",), ("r2",)]
    assert await only(lab, "overview", "executions", by="all", filters=read_filter("retriever_id=r1")) == [(2,)]
    assert await only(lab, "overview", "period", "executions", by="metadata.device") == [("ios", 2), ("web", 1)]
    assert await only(lab, "overview", "period", "executions", by="metadata.depth.n") == [("3", 3)]
    assert await only(lab, "overview", "period", "executions", by="retriever_id") == [("r1", 2), ("r2", 1)]
    assert await only(lab, "overview", "period", by="metadata.it's\\\\ odd") == [("",)]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("nothing", {}, "name: 'nothing' is not a report; known are overview"),
        ("overview", {"by": "metadata"}, "by: metadata cannot be grouped by"),
        ("overview", {"by": "minute"}, "by: 'minute' is not a field"),
        ("types", {"by": "minute"}, "by: 'minute' is not one of hour, day, week, all"),
        ("features", {"by": "day"}, "by: is not a parameter of the report features, which has none"),
        ("queries", {"min_executions": 0}, "min_executions: must be from 1"),
        ("compare", {"a": "x"}, "b: is needed by the report compare: group B"),
        ("compare", {"a": "x", "b": "y", "effect": float("nan")}, "effect: must be from"),
        ("journey", {"session": "s" * 2_000}, "session: is longer than 1024 bytes"),
        ("queries", {"sort": "ctr; DROP TABLE interactions"}, "sort: .* is not a column, or COLUMN:desc"),
        ("queries", {"since": datetime(2027, 1, 1, tzinfo=UTC)}, "until: .* is not later than since"),
        ("verdicts", {"filters": read_filter("user_id=a")}, "where: the report verdicts cannot be filtered"),
        (
            "types",
            {"filters": read_filter('{"user_id": {"regex": "("}}')},
            "where: the pat",
        ),
    ],
)
async def test_a_report_that_cannot_be_made_names_what_to_change(
    lab: Lab, name: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ReportError, match=message):
        await made(lab, name, **parameters)


async def test_a_report_beyond_its_bounds_names_the_setting(lab: Lab) -> None:
    """One execution is one group in memory; other groups would go to disk."""
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, feature_id, execution_id, interaction_type, timestamp, "
        "_event_time_ms) SELECT 'default', toString(generateUUIDv4()), toString(number), 'one', "
        "['click'], toDateTime64('2026-03-01', 3, 'UTC'), 1772323200000 FROM numbers(800000)"
    )
    small = lab.settings.model_copy(update={"report_memory_bytes": 64 * 1024 * 1024})
    with pytest.raises(ReportError, match="TALLY_REPORT_MEMORY_BYTES"):
        await made(Lab(small, lab.database, lab._raw), "overview", since=datetime(2026, 1, 1, tzinfo=UTC))
    hasty = lab.settings.model_copy(update={"report_timeout_ms": 1})
    with pytest.raises(ReportError, match="TALLY_REPORT_TIMEOUT_MS"):
        await made(Lab(hasty, lab.database, lab._raw), "overview", by="all")
    cut = await made(lab, "features", limit=7)
    assert (len(cut.rows), cut.is_truncated) == (7, True)


async def test_a_report_is_sorted_by_any_column(lab: Lab) -> None:
    await shown_results(lab)
    assert await only(lab, "features", "feature_id", sort="ctr:desc") == [("a",), ("c",), ("b",), ("d",)]
    assert await only(lab, "features", "feature_id", sort="feature_id") == [("a",), ("b",), ("c",), ("d",)]


async def test_the_views_follow_the_path_of_the_query_text(lab: Lab) -> None:
    from runtime.migrate import migrate

    await lab.emit(click(interaction_type=["impression"], query_snapshot={"q": {"text": "  \uff32ED\tShoes "}}))
    await lab.drain()
    moved = lab.settings.model_copy(update={"query_text_path": "q.text"})
    assert await lab.rows("SELECT query FROM events") == [("",)]
    await migrate(moved)
    assert await lab.rows("SELECT query FROM events") == [("red shoes",)]
    found = await only(Lab(moved, lab.database, lab._raw), "queries", "text", min_executions=1)
    assert found == [("red shoes",)]
    assert (await lab.rows("SELECT count() FROM system.tables WHERE comment LIKE 'tally %'"))[0][0] >= len(views())


async def test_empty_ids_are_no_user_and_no_session(lab: Lab) -> None:
    for number in range(2):
        empty = {"user_id": "", "session_id": "", "query_snapshot": {"text": f"query {number}"}}
        await lab.emit(click("doc", f"exec-{number}", interaction_type=["impression"], **empty))
    await lab.drain()
    names = "executions", "users", "sessions", "refinement_rate"
    assert await only(lab, "overview", *names, by="all") == [(2, 0, 0, 0.0)]
    assert await only(lab, "sessions", "session") == []


@pytest.mark.parametrize(
    "kind", ["TABLE events (x UInt8) ENGINE = MergeTree ORDER BY x", "VIEW events AS SELECT 1 AS x"]
)
async def test_a_table_that_has_the_name_of_a_view_is_kept(lab: Lab, kind: str) -> None:
    from runtime.migrate import migrate

    await lab.database.command("DROP VIEW events")
    await lab.database.command(f"CREATE {kind}")
    with pytest.raises(Fatal, match=r"\.events is not a view of Tally's, .*: rename it"):
        await migrate(lab.settings)
    assert await lab.rows(
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = 'events'"
    ) == [("x",)]
    await lab.database.command("RENAME TABLE events TO mine")
    await migrate(lab.settings)
    assert await lab.rows("SELECT count() FROM events") == [(0,)]
