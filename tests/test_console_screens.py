"""Screens of the console on a live API: each state of each screen, and texts from events that stay text."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from console.report_table import chart_of, day_columns, table_rows
from runtime import kafka
from schemas.wire import NAMESPACE_HEADER
from tests.console_lab import console_client, sign_in
from tests.http_lab import EVENT, KEY, PATH, api_of, consuming, until_keys_are_known, with_key
from tests.lab import Lab
from tests.waiting import eventually_async

HOSTILE = '<img src=x onerror=alert(1)>\u202egpj.exe\x00<script>alert(2)</script>" onload="x'
SHOWN = "&lt;img src=x onerror=alert(1)&gt;"


class Viewer:
    """A viewer who has signed in, beside the API, with a worker on the topic."""

    def __init__(self, lab: Lab, api: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
        self.lab = lab
        self.api = api
        self.browser = browser

    async def send(self, **fields: Any) -> str:
        """Send an event, and return its id once a worker has decided about it."""
        answer = await self.api.post(PATH, json=EVENT | fields, headers={"Prefer": "wait=10"})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-interaction-id"]

    async def put(self, value: bytes, namespace: bytes = b"default") -> tuple[int, int]:
        """Put a record on the topic as another Kafka client would, and return its place."""
        async with kafka.producer(self.lab.settings) as producer:
            done = await producer.send_and_wait(
                self.lab.settings.topic, value, key=b"k", headers=[(NAMESPACE_HEADER, namespace)]
            )
        return done.partition, done.offset

    async def see(self, path: str, status: int = 200, **query: Any) -> str:
        """Return a page or panel as text."""
        answer = await self.browser.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.text

    async def first_look(self) -> dict[str, Any]:
        """Return the first answer of the live events, once the API has observed its consumers."""
        found: dict[str, Any] = {}

        async def is_answered() -> bool:
            nonlocal found
            found = (await self.browser.get("/live/events")).json()
            return "cursor" in found

        await eventually_async(is_answered)
        return found

    async def until_seen(self, path: str, pattern: str, **query: Any) -> str:
        """Wait until a page or panel matches, and return it."""
        found = ""

        async def is_seen() -> bool:
            nonlocal found
            found = (await self.browser.get(path, params=query)).text
            return re.search(pattern, found, re.DOTALL) is not None

        await eventually_async(is_seen)
        return found


@pytest.fixture
async def viewer(lab: Lab) -> AsyncIterator[Viewer]:
    async with (
        api_of(with_key(lab.settings, replay_letters=2)) as api,
        consuming(lab.settings),
        console_client("http://t", api._transport) as browser,
    ):
        await until_keys_are_known(api)
        await sign_in(browser, KEY)
        yield Viewer(lab, api, browser)


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
    assert "stored" in shown["summary"]
    refused = await viewer.browser.get("/live/events", params={"verdict": "lost"})
    assert (refused.status_code, "problem" in refused.json()) == (422, True)


async def test_a_rejected_event_is_corrected_and_stored(viewer: Viewer) -> None:
    partition, offset = await viewer.put(json.dumps(EVENT | {"position": "one"}).encode())
    place = f"{partition}/{offset}"
    groups = await viewer.until_seen("/dead-letters/groups", "wrong_type")
    assert "Correct all 1" in groups
    assert place in await viewer.see("/dead-letters/list")
    letter = await viewer.see(f"/dead-letters/{place}")
    assert "Input should be a valid integer" in letter
    assert "&#34;position&#34;: &#34;one&#34;" in letter

    async def check(patch: str) -> str:
        return (await viewer.browser.post(f"/dead-letters/{place}/check", data={"patch": patch})).text

    assert "not JSON yet" in await check('{"position":')
    assert "JSON object" in await check("[1]")
    assert "Still rejected" in await check('{"position": -1}')
    assert "Valid" in await check('{"position": 1}')
    form = {"origin": place, "patch": '{"position": 1}'}
    tried = await viewer.browser.post("/dead-letters/replay", data=form | {"action": "dry_run"})
    assert "Dry run: nothing was changed" in tried.text
    done = await viewer.browser.post("/dead-letters/replay", data=form | {"action": "replay"})
    (new,) = set(re.findall(r"int_[0-9a-f]{32}", done.text))
    await viewer.until_seen("/find/event", "v-stored", id=new)
    await viewer.until_seen("/dead-letters/list", "v-stored", replayed="yes")
    assert "none waits" in await viewer.see("/dead-letters/groups")


async def test_many_letters_are_replayed_in_steps(viewer: Viewer) -> None:
    for number in range(3):
        await viewer.put(json.dumps(EVENT | {"position": "one", "execution_id": f"e{number}"}).encode())
    await viewer.until_seen("/dead-letters/groups", "Correct all 3")
    form = {"reason": "wrong_type", "field": "position", "patch": '{"position": 1}', "action": "replay"}
    first = await viewer.browser.post("/dead-letters/replay", data=form)
    cursor = re.search(r'name="cursor" value="([^"]+)"', first.text)
    assert cursor is not None
    assert "Replay the next ones" in first.text
    rest = await viewer.browser.post("/dead-letters/replay", data=form | {"cursor": cursor[1]})
    assert "the next ones" not in rest.text
    assert "none waits" in await viewer.see("/dead-letters/groups")


async def test_an_event_without_an_outcome_is_in_flight(lab: Lab) -> None:
    async with api_of(with_key(lab.settings)) as api, console_client("http://t", api._transport) as browser:
        await until_keys_are_known(api)
        await sign_in(browser, KEY)
        waiting = (await api.post(PATH, json=EVENT)).headers["x-interaction-id"]
        page = await browser.get("/find/event", params={"id": waiting})
        assert page.status_code == 200, page.text
        assert "v-accepted" in page.text
        assert "In flight" in page.text


async def test_a_record_of_no_namespace_is_for_admins(viewer: Viewer) -> None:
    partition, offset = await viewer.put(b"no json \xff")
    await viewer.until_seen("/dead-letters/groups", "not_utf8", unattributed="1")
    assert "not_utf8" not in await viewer.see("/dead-letters/groups")
    letter = await viewer.see(f"/dead-letters/{partition}/{offset}", unattributed="1")
    assert "in Base64" in letter
    await viewer.see(f"/dead-letters/{partition}/{offset}", 404)


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
    table = table_rows(columns, ["retriever"], now, before)
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
