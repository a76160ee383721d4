"""Event times at both bounds: every input path accepts them, and they are read back unchanged."""

import json
from collections.abc import AsyncIterator
from datetime import datetime

import httpx
import pytest

from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime.http.keys import ROOT, PageToken, hash_of
from runtime.redis import Redis
from schemas.event_time import END_MS, from_epoch_ms, iso_ms
from schemas.record import InteractionRecord
from schemas.wire import encode_headers
from tests.http_lab import EVENT, KEY, PATH, api_of, with_key
from tests.lab import Lab, as_json, click
from tests.reports_lab import only

W = 300_000
FIRST, LAST = "1970-01-01T00:00:00.000Z", "2261-12-31T23:59:59.999Z"
STORED = {
    FIRST: 0,
    "1970-01-01T00:00:00": 0,
    "1969-12-31T23:30:00-00:30": 0,
    "1970-01-01 00:00:00.0019999Z": 1,
    "1970-12-31t23:59+23:59": 31_449_600_000,
    LAST: END_MS - 1,
    "2262-01-01T00:29:59.9999+00:30": END_MS - 1,
    "2261-12-31T23:59:59Z": END_MS - 1_000,
}
"""Texts of times, with their milliseconds since 1970."""
REFUSED = ("1969-12-31T23:59:59.999Z", "1970-01-01T00:29:59.9999+00:30", "2262-01-01T00:00:00Z", "2261-12-31T23:59:60Z")
ORIGIN = {"Origin": "https://a.example"}
TOKEN = f"token={PageToken.until(ROOT, 'default', 'https://a.example', 86_000).signed(hash_of(KEY))}"


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's topic and tables."""
    async with api_of(with_key(lab.settings)) as client:
        yield client


async def send_every_way(lab: Lab, api: httpx.AsyncClient, occurred_at: str) -> None:
    """By a foreign producer, as a single event, as one of a batch, and from a page."""

    def event(way: str) -> dict[str, object]:
        return EVENT | {"occurred_at": occurred_at, "execution_id": f"{way} {occurred_at}"}

    await lab.put(json.dumps(event("foreign")).encode(), headers=encode_headers("default"))
    created = (await api.post(PATH, json=event("create"))).json()
    assert created["occurred_at"] == iso_ms(from_epoch_ms(min(STORED[occurred_at], _ms_of(created["timestamp"]))))
    assert (await api.post(f"{PATH}/batch", json={"interactions": [event("batch")]})).json()["created"] == 1
    sent = await api.post(f"{PATH}/beacon?{TOKEN}", json=event("page"), headers=ORIGIN)
    assert sent.status_code == 204


def _ms_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


async def test_times_at_the_bounds_are_stored_and_read_back(lab: Lab, api: httpx.AsyncClient) -> None:
    for occurred_at in STORED:
        await send_every_way(lab, api, occurred_at)
    await lab.emit(*(click("sdk", "sdk", occurred_at=from_epoch_ms(ms)) for ms in (0, END_MS - 1)))
    counts = await lab.drain()
    assert (counts.stored, counts.total) == (4 * len(STORED) + 2,) * 2
    rows = await lab.rows(
        "SELECT interaction_id, execution_id, _event_time_ms, occurred_at, timestamp FROM interactions"
    )
    for interaction_id, execution, event_ms, occurred_at, timestamp in rows:
        way, _, text = execution.partition(" ")
        assert event_ms in ((0, END_MS - 1) if way == "sdk" else (STORED[text],))
        assert occurred_at == min(from_epoch_ms(event_ms), timestamp)
        record = (await api.get(f"{PATH}/{interaction_id}")).json()
        assert record["occurred_at"] == iso_ms(occurred_at)
        assert InteractionRecord.model_validate(record).occurred_at == occurred_at
    await assert_balanced(lab)


async def test_an_epoch_of_0_is_listed_and_reported(lab: Lab, api: httpx.AsyncClient) -> None:
    await lab.emit(click("old", occurred_at=from_epoch_ms(0)), click("new"))
    await lab.drain()
    same = {"AND": [{"field": "occurred_at", "operator": "eq", "value": FIRST}]}
    listed = (await api.post(f"{PATH}/list", json={"filters": same})).json()
    assert [each["feature_id"] for each in listed["results"]] == ["old"]
    assert (await only(lab, "types", "period", "type", "interactions"))[0] == (from_epoch_ms(0), "click", 1)


async def test_times_beyond_the_bounds_are_refused_over_http_and_from_the_log(lab: Lab, api: httpx.AsyncClient) -> None:
    for occurred_at in REFUSED:
        event = EVENT | {"occurred_at": occurred_at}
        for path in (PATH, f"{PATH}/beacon?{TOKEN}"):
            answer = await api.post(path, json=event, headers=ORIGIN if TOKEN in path else {})
            assert (answer.status_code, "bad_time" in answer.text) == (422, True), occurred_at
        batch = (await api.post(f"{PATH}/batch", json={"interactions": [event]})).json()
        assert batch["failed"] == 1
        await lab.put(json.dumps(event).encode())
    counts = await lab.drain()
    assert (counts.rejected, counts.total) == (len(REFUSED),) * 2
    assert set(await lab.rows("SELECT reason FROM outcomes")) == {("bad_time",)}


async def test_the_window_applies_at_both_ends_of_the_time_range(lab: Lab, redis: Redis) -> None:
    """Just less than W apart is a duplicate and W apart is none; sent again, all are, by claims that were rebuilt."""
    owners = {"first": 0, "last": END_MS - 1}
    later = {"first": (W - 1, W), "last": (END_MS - W, END_MS - 1 - W)}
    for execution, at_ms in owners.items():
        await lab.put(as_json(execution=execution, occurred_at=iso_ms(from_epoch_ms(at_ms))))
    assert (await lab.drain()).stored == 2
    for expected in (2, 4):
        for execution, times_ms in later.items():
            for at_ms in times_ms:
                await lab.put(as_json(execution=execution, occurred_at=iso_ms(from_epoch_ms(at_ms))))
        counts = await lab.drain()
        assert (counts.duplicates, counts.total) == (expected, 4)
        await redis.flushdb()
    await assert_balanced(lab)


async def assert_balanced(lab: Lab) -> None:
    """Nothing is lost and nothing wrong, by the audit and the deep one."""
    assert all([each.balances async for each in audit(lab.settings, lab.database)])
    assert (await deep_audit(lab.settings, lab.database)).balances


@pytest.mark.parametrize(("origin_ms", "is_valid"), [(END_MS - 1, True), (END_MS, False), (999_999_999_999_999, False)])
async def test_an_origin_time_of_a_moved_copy_has_the_bounds_of_event_times(
    lab: Lab, origin_ms: int, *, is_valid: bool
) -> None:
    headers = encode_headers("default", derived_id=True, origin_ms=origin_ms, moved_from="interactions/0/0")
    await lab.put(as_json(), headers=headers)
    counts = await lab.drain()
    assert (counts.stored, counts.rejected) == ((1, 0) if is_valid else (0, 1))
