"""The views: each event is counted once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from readers.reports import REPORTS, Report, run_report
from schemas.views import VIEWS
from schemas.wire import encode_headers
from tally.plot import draw
from tests.lab import Lab, as_json, click


async def report(lab: Lab, name: str, namespace: str = "default") -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    found = await run_report(lab.database, name, namespace, now - timedelta(hours=1), now + timedelta(minutes=1))
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


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
    columns = ("position", "impressions", "clicks", "clicks_without_impression", "click_through")
    got = [tuple(row[column] for column in columns) for row in await report(lab, "positions")]
    assert got == [(0, 1, 1, 0, 1.0), (1, 2, 1, 0, 0.5), (2, 0, 0, 1, None)]
    got = [tuple(row.values()) for row in await report(lab, "retrievers")]
    assert got == [("r1", 2, 1, 0, 0.5), ("r2", 1, 1, 1, 1.0)]


async def test_reports_count_types_and_verdicts(lab: Lab) -> None:
    await shown_results(lab)
    counts = {row["type"]: row["interactions"] for row in await report(lab, "types")}
    assert counts == {"impression": 3, "click": 4, "view": 1, "purchase": 1}
    rows = await report(lab, "verdicts")
    assert [sum(row[name] for row in rows) for name in ("stored", "duplicates", "rejected")] == [7, 1, 1]


async def test_reports_count_repeated_rows_once_and_omit_other_namespaces(lab: Lab) -> None:
    await shown_results(lab)
    before = [await report(lab, name) for name in REPORTS]
    await lab.database.command("INSERT INTO interactions SELECT * FROM interactions")
    await lab.database.command("INSERT INTO outcomes SELECT * FROM outcomes")
    assert [await report(lab, name) for name in REPORTS] == before
    assert [await report(lab, name, "other") for name in REPORTS] == [[], [], [], []]


async def test_deleted_events_are_in_no_view(lab: Lab) -> None:
    await shown_results(lab)
    tombstones = "SELECT * REPLACE (1 AS version, 1 AS is_deleted) FROM interactions WHERE feature_id = 'c'"
    await lab.database.command(f"INSERT INTO interactions {tombstones}")
    assert [row["impressions"] for row in await report(lab, "positions")] == [1, 1, 0]
    assert {row["type"]: row["interactions"] for row in await report(lab, "types")}["impression"] == 2
    assert sum(row["stored"] for row in await report(lab, "verdicts")) == 6


async def test_a_report_without_rows_is_drawn(lab: Lab, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for name in REPORTS:
        draw(await run_report(lab.database, name, "nobody", now, now), tmp_path / "empty.png")


async def test_a_report_is_drawn(lab: Lab, tmp_path: Path) -> None:
    await shown_results(lab)
    now = datetime.now(UTC)
    for name in REPORTS:
        found = await run_report(lab.database, name, "default", now - timedelta(hours=1), now + timedelta(minutes=1))
        draw(found, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_name_is_drawn_as_it_is_and_never_as_a_formula(tmp_path: Path) -> None:
    names = [r"$\frac$", "$unclosed", "\x1b[31m", "Größe"]
    rows = [(name, 0.5) for name in names]
    draw(Report("retrievers", "Title", ["name", "share"], rows, "name", "share"), tmp_path / "names.png")
    assert (tmp_path / "names.png").read_bytes().startswith(b"\x89PNG")


async def test_a_report_of_one_day_reads_few_rows(lab: Lab) -> None:
    """Each view over one day reads a small part of a tenant's rows."""
    days = 365
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, timestamp, _event_time_ms, _offset) "
        f"SELECT 'default', concat('int_', leftPad(toString(number), 32, '0')), "
        f"toDateTime64('2026-01-01', 3, 'UTC') + toIntervalSecond(intDiv(number * 86400 * {days}, 1000000)), 0, number "
        "FROM numbers(1000000)"
    )
    range_ = "namespace = 'default', since = '2026-06-01 00:00:00', until = '2026-06-02 00:00:00'"
    for view in VIEWS:
        rows = await lab.database.rows(f"EXPLAIN ESTIMATE SELECT * FROM {view}({range_})")
        read = sum(row[3] for row in rows if row[1] == "interactions")
        assert 0 < read < 1_000_000 / 20, view
