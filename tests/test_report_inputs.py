"""Reports of unusual events: nothing, one event, one user, hostile texts; each format holds each value."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from readers.report_statement import GroupMissing
from readers.reports import ReportResult
from schemas.analytics.catalogue import REPORTS
from schemas.interaction import Interaction
from tally.plot import draw
from tally.report_output import MAX_CELL, cells, write
from tests.lab import Lab, click
from tests.reports_lab import BEGIN, END, made, only

REQUIRED: dict[str, dict[str, Any]] = {"compare": {"a": "r1", "b": "r2"}, "journey": {"session": "s1"}}
ALL: dict[str, dict[str, Any]] = {"queries": {"min_executions": 1}}
HOSTILE = (
    "\u202eright to left",
    "\x1b[31mred\x07\x00",
    "a,\"b\"\n'c';\td\\",
    "=1+1",
    "{namespace:String}",
    "$x^2$",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "x" * 60_000,
    "",
)


def shown(text: str, number: int = 0, **fields: Any) -> Interaction:
    """An impression of a result, with this text as query, document, retriever and session."""
    name = text[:100] or "none"
    given = {"interaction_type": ["impression"], "retriever_id": name, "session_id": name, "user_id": name, **fields}
    return click(name, f"exec-{number}", query_snapshot={"text": text}, **given)


async def every_report(lab: Lab) -> dict[str, ReportResult]:
    found = {}
    for name in REPORTS:
        try:
            found[name] = await made(lab, name, **REQUIRED.get(name, {}), **ALL.get(name, {}))
        except GroupMissing:
            assert name == "compare"
    return found


def check_formats(found: ReportResult, folder: Path) -> None:
    """Each format has every row, and no value that is not a number."""
    assert len(list(cells(found))) == len(found.rows)
    json.dumps(found.rows, default=str, allow_nan=False)
    for kind in ("csv", "json", "parquet"):
        write(found, kind, folder / f"report.{kind}")
    rows = [json.loads(json.dumps(record, default=str)) for record in found.records()]
    as_json = json.loads((folder / "report.json").read_text())
    as_csv = list(csv.DictReader(io.StringIO((folder / "report.csv").read_bytes().decode(), newline="")))
    table = parquet.read_table(folder / "report.parquet")
    assert len(as_json) == len(as_csv) == table.num_rows == len(rows)
    assert table.column_names == found.columns
    for column in found.report.columns:
        if column.unit == "text":
            values = [row[column.name] for row in rows]
            assert [row[column.name] for row in as_json] == values
            assert [row[column.name] for row in as_csv] == ["" if value is None else value for value in values]
            assert table.column(column.name).to_pylist() == values
    if found.report.chart:
        note = draw(found, folder / "report.svg", min_support=1)
        assert (folder / "report.svg").exists() or note.startswith("no chart")


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_reports_of_no_event_one_and_two(lab: Lab, tmp_path: Path, count: int) -> None:
    await lab.emit(*(shown("q", number, retriever_id=f"r{number + 1}", session_id="s1") for number in range(count)))
    if count:
        await lab.drain()
    for name, found in (await every_report(lab)).items():
        (tmp_path / name).mkdir()
        check_formats(found, tmp_path / name)
    rows = await only(lab, "overview", "executions", "ctr", "ctr_low", "mrr", "mrr_low", by="all")
    assert rows == {0: [], 1: [(1, 0.0, 0.0, 0.0, None)], 2: [(2, 0.0, 0.0, 0.0, 0.0)]}[count]


async def test_reports_of_hostile_texts(lab: Lab, tmp_path: Path) -> None:
    await lab.emit(*(shown(text, number) for number, text in enumerate(HOSTILE)))
    await lab.drain()
    found = await every_report(lab)
    for name, each in found.items():
        (tmp_path / name).mkdir()
        check_formats(each, tmp_path / name)
    assert len(found["queries"].rows) == len(HOSTILE)
    assert {row[0] for row in found["retrievers"].rows} == {text[:100] or "none" for text in HOSTILE}
    longest = max(found["queries"].records(), key=lambda row: len(row["text"]))
    assert longest["text"] == "x" * 60_000
    assert max(len(line[0]) for line in cells(found["queries"])) == MAX_CELL


async def test_reports_of_other_ranges(lab: Lab) -> None:
    await lab.emit(shown("q"))
    await lab.drain()
    now = datetime.now(UTC)
    for since, until in (
        (now + timedelta(days=365), now + timedelta(days=730)),
        (BEGIN, BEGIN + timedelta(milliseconds=1)),
        (datetime(2200, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)),
    ):
        assert await only(lab, "overview", "executions", since=since, until=until) == []
        assert await only(lab, "funnel", "executions", since=since, until=until) == [(0,)] * 4
    assert await only(lab, "retrievers", "retriever_id", since=BEGIN, until=END) == [("q",)]


async def test_a_comparison_of_groups_that_nobody_has_says_so(lab: Lab) -> None:
    await lab.emit(shown("q", retriever_id="r1"))
    await lab.drain()
    with pytest.raises(GroupMissing, match=r"'nobody' has no executions in this range; retriever_id has r1 \(1 exec"):
        await made(lab, "compare", a="r1", b="nobody")


async def test_users_in_both_groups_and_a_broken_split_are_noted(lab: Lab) -> None:
    users = [shown("q", number, user_id=f"u{number}", retriever_id="r1") for number in range(60)]
    both = [shown("q", 100 + number, user_id=f"u{number}", retriever_id="r2") for number in range(5)]
    await lab.emit(*users, *both)
    await lab.drain()
    notes = (await made(lab, "compare", a="r1", b="r2")).notes
    assert [note.split(" (")[0].split(";")[0] for note in notes] == [
        "the split of the users is not the expected one",
        "5 users are in both groups",
    ]
