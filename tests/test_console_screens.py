"""Screens of the console on a live API: each state of each screen, and texts from events that stay text."""

import json
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from console.report_table import chart_of, day_columns, table_rows
from tests.console_lab import console_client, sign_in
from tests.console_viewer import Viewer, viewer_of
from tests.http_lab import EVENT, KEY, PATH, api_of, until_keys_are_known, with_key
from tests.lab import Lab
from tests.waiting import eventually_async

HOSTILE = '<img src=x onerror=alert(1)>\u202egpj.exe\x00<script>alert(2)</script>" onload="x'
SHOWN = "&lt;img src=x onerror=alert(1)&gt;"


@pytest.fixture
async def viewer(lab: Lab) -> AsyncIterator[Viewer]:
    async with viewer_of(lab) as found:
        yield found


async def test_an_event_is_found_by_each_of_its_ids(viewer: Viewer) -> None:
    ids = {"execution_id": "search-1", "user_id": "ada", "session_id": "visit-1"}
    first = await viewer.send(**ids)
    second = await viewer.send(**ids)
    assert f"/find/event?id={first}" in await viewer.see("/find", id=first)
    page = await viewer.see("/find/event", id=first)
    assert 'class="verdict v-stored"' in page
    assert re.search(r"partition \d+, offset \d+", page)
    assert "1 duplicate of it" in page
    assert first in await viewer.see("/find/event", id=second)
    for each in ids.values():
        assert first in await viewer.see("/find/events", id=each)
        assert second not in await viewer.see("/find/events", id=each, verdict="stored")
    assert "No event has this id" in await viewer.see("/find/events", id="nobody")
    assert "No rejected event has this id" in await viewer.see("/find/events", id="visit-1", verdict="rejected")
    assert '<option value="stored" selected>' in await viewer.see("/find", id="visit-1", verdict="stored")
    await viewer.see("/find/event", 404, id="int_" + "0" * 32)


async def test_a_list_of_events_says_its_order_and_its_latest_append(viewer: Viewer) -> None:
    """A replay has an id of the time of the rejected record: it is appended last, and not the first of the list."""
    rejected = await viewer.put(json.dumps(EVENT | {"position": "one", "execution_id": "search-2"}).encode())
    await viewer.until_seen("/dead-letters/groups", "Correct it")
    await viewer.send(execution_id="search-2", feature_id="doc-7", occurred_at="2026-01-01T10:00:00Z")
    origin = f"{rejected[0]}/{rejected[1]}"
    form = {"origin": origin, "patch": '{"position": 1}', "action": "replay"}
    done = await viewer.browser.post("/dead-letters/replay", data=form)
    (new,) = set(re.findall(r"int_[0-9a-f]{32}", done.text))
    page = await viewer.until_seen("/find/events", f"{new}.*v-stored|v-stored.*{new}", id="search-2")
    events = (await viewer.api.get("/v1/events", params={"any_id": "search-2"})).json()["events"]
    newest = max(each["timestamp"] for each in events)
    assert newest != events[0]["timestamp"], "the replay would be the first of the list"
    assert re.search(rf'the latest of them was appended <time datetime="{re.escape(newest)}"', page)
    assert "In the order of their ids, the newest first" in page
    assert re.search(r'event time <time datetime="2026-01-01T10:00:00.000Z"', page)
    assert page.count("event time <time") == 1 + sum(_is_late(each) for each in events if each["position"] == 1)
    details = await viewer.see(
        "/find/event", id=next(e["interaction_id"] for e in events if e["verdict"] == "rejected")
    )
    assert "Show its dead letter</a>" in details


def _is_late(event: dict[str, Any]) -> bool:
    happened, appended = (datetime.fromisoformat(event[name]) for name in ("event_time", "timestamp"))
    return (appended - happened).total_seconds() >= 1


async def test_live_events_come_with_counts_and_once(viewer: Viewer) -> None:
    shown = await viewer.first_look()
    new = await viewer.send(feature_id="doc-9", execution_id="search-9")
    rows = ""

    async def is_shown() -> bool:
        nonlocal shown, rows
        shown = (await viewer.browser.get("/live/events", params={"cursor": shown["cursor"]})).json()
        rows += shown["rows"]
        return new in rows

    await eventually_async(is_shown)
    assert rows.count(f"/find?id={new}") == 1
    assert shown["counts"].keys() == {"stored", "duplicate", "rejected", "deleted", "moved"}
    assert "new event" in shown["status"]
    assert "of the last minutes" in (await viewer.first_look())["status"]
    refused = await viewer.browser.get("/live/events", params={"verdict": "lost"})
    assert (refused.status_code, "problem" in refused.json()) == (422, True)


async def test_an_event_without_an_outcome_is_in_flight(lab: Lab) -> None:
    async with api_of(with_key(lab.settings)) as api, console_client("http://t", api._transport) as browser:
        await until_keys_are_known(api)
        await sign_in(browser, KEY)
        waiting = (await api.post(PATH, json=EVENT)).headers["x-interaction-id"]
        page = await browser.get("/find/event", params={"id": waiting})
        assert page.status_code == 200, page.text
        assert "v-accepted" in page.text
        assert "In flight" in page.text


async def test_texts_of_events_stay_text(viewer: Viewer) -> None:
    fields = {"user_id": HOSTILE, "session_id": HOSTILE, "retriever_id": HOSTILE, "feature_id": HOSTILE}
    stored = await viewer.send(
        **fields, execution_id=HOSTILE, query_snapshot={"text": HOSTILE}, metadata={"a": "x" * 60_000, HOSTILE: HOSTILE}
    )
    await viewer.put(json.dumps(EVENT | {HOSTILE: 1, "position": HOSTILE}).encode())
    await viewer.until_seen("/dead-letters/groups", "wrong_type|unknown_field")
    live = await viewer.first_look()
    pages = [
        live["rows"],
        await viewer.see("/find", id=HOSTILE),
        await viewer.see("/find/event", id=stored),
        await viewer.see("/find/events", id=HOSTILE),
        await viewer.see("/dead-letters", reason=HOSTILE),
        await viewer.see("/dead-letters/list"),
        await viewer.see("/journey/events", session=HOSTILE),
        await viewer.see("/journey/sessions"),
        await viewer.see("/reports/retrievers/rows"),
        await viewer.see("/learning", retriever=HOSTILE),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert "<script>alert" not in page
        assert '" onload="x' not in page
        assert "\u202e" not in re.sub(r'(value|href|title|data-\w+|action)="[^"]*"', "", page)
    assert SHOWN in pages[2]
    assert "\\u{202e}" in pages[2]


async def test_every_panel_has_an_empty_state(viewer: Viewer) -> None:
    for path, text in {
        "/overview/traffic": "No event of this namespace",
        "/overview/refusals": "No event of this namespace was sent over HTTP",
        "/dead-letters/groups": "none waits",
        "/dead-letters/list": "No letter",
        "/journey/sessions": "No event with a session_id",
        "/reports/overview/rows": "No event in this range",
        "/learning/interleavings": "No interleaved ranking",
        "/keys/list": "No key yet",
    }.items():
        assert text in await viewer.see(path), path
    assert "nothing can be learned" in await viewer.see("/learning")
    assert "no learning configuration" in await viewer.see("/learning/weights", retriever="dense")


async def test_a_report_shows_rows_comparison_and_sql(viewer: Viewer) -> None:
    await viewer.send(interaction_type=["impression"], retriever_id="dense")
    await viewer.send(interaction_type=["click"], retriever_id="dense")
    rows = await viewer.see("/reports/overview/rows", hours="24", compare="1", by="all")
    assert "100.0 %" in rows
    sql = re.search(r'data-copy="([^"]*)"', rows)
    assert sql is not None
    assert "report_overview" in sql[1]
    assert 'class="chart"' in await viewer.see("/reports/retrievers/rows", hours="24")
    assert "Fill in what is required" in await viewer.see("/reports/compare")
    assert "dense" in await viewer.see("/reports/compare")
    assert "is not a time" in await viewer.see("/reports/overview/rows", 422, since="soon")
    await viewer.see("/reports/nothing", 404)


async def test_the_overview_shows_pipeline_and_refusals(viewer: Viewer) -> None:
    await viewer.send()
    await viewer.api.post(PATH, json={"feature_id": "doc-1"})
    await viewer.until_seen("/overview/pipeline", '1</span>|1 <span class="unit">active')
    assert "Accepted from API key" in await viewer.until_seen("/overview/refusals", "missing_field")
    assert "<svg" in await viewer.until_seen("/overview/traffic", "<svg")
    assert "default" in await viewer.see("/overview/namespaces")


def test_rows_are_compared_by_their_keys() -> None:
    columns = [{"name": "retriever", "unit": "text"}, {"name": "ctr", "unit": "share"}]
    now: list[dict[str, Any]] = [
        {"retriever": "a", "ctr": 0.5, "ctr_low": 0.4, "ctr_high": 0.6},
        {"retriever": "b", "ctr": None},
    ]
    before = [{"retriever": "b", "ctr": 0.1}]
    since = "2026-11-29T00:00:00.000Z"
    table = table_rows(columns, ["retriever"], {"since": since, "rows": now}, {"since": since, "rows": before})
    assert [cell.before for row in table for cell in row] == ["", "", "", "10.0 %"]
    assert table[0][1].interval == "40.0 % to 60.0 %"


def test_points_of_one_time_need_no_order() -> None:
    chart = {"kind": "trend", "x": "at", "y": "n", "series": None, "title": "t"}
    rows: list[dict[str, Any]] = [{"at": "2026-01-01T00:00:00Z", "n": 1}, {"at": "2026-01-01T00:00:00Z", "n": None}]
    assert "<svg" in chart_of(chart, [{"name": "n", "unit": "count"}], rows)


def test_midnights_of_utc_are_days() -> None:
    columns = [{"name": "period", "unit": "time"}, {"name": "ctr", "unit": "share"}]
    days = [{"period": "2026-11-28T00:00:00.000Z", "ctr": 0.5}, {"period": "2026-11-29T00:00:00.000Z", "ctr": 0.5}]
    assert day_columns(columns, days) == {"period"}
    assert day_columns(columns, [*days, {"period": "2026-11-29T01:00:00.000Z"}]) == set()
    chart = {"kind": "trend", "x": "period", "y": "ctr", "title": "t", "series": None}
    assert "data-tick" not in chart_of(chart, columns, days)
    hours = [{"period": f"2026-11-28T0{hour}:30:00.000Z", "ctr": 0.5} for hour in range(3)]
    assert "data-tick" in chart_of(chart, columns, hours)
