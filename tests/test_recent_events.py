"""The feed of recent events: each event is in exactly one answer, and callers share the work."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readers.event_conditions import EventFilter
from readers.event_cursor import read_position, write_position
from readers.event_feed import EventFeeds
from readers.event_models import VERDICTS, RecentQuery
from readers.event_ticks import EventRange, TickEvent, fair_shares, newest_of_each, range_statement
from readers.log_position import LogPosition
from readers.progress import ConsumerProgress
from runtime.clickhouse import BoundParameters
from runtime.http.errors import ApiError
from runtime.http.in_flight import InFlightLimit
from schemas.event_time import END_MS
from schemas.wire import encode_headers
from tests.http_lab import PATH, api_of, assert_error, with_key
from tests.lab import Lab, as_json, click, executions_on
from tests.waiting import eventually_async

RECENT = "/v1/events/recent"


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's topic and tables."""
    async with api_of(with_key(lab.settings), "reader") as client:
        yield client


async def recent(api: httpx.AsyncClient, cursor: str | None = None, **query: Any) -> dict[str, Any]:
    """One answer."""
    answer = await api.get(RECENT, params=query | ({"cursor": cursor} if cursor else {}))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["shown"] == len(body["events"])
    return body


async def started(api: httpx.AsyncClient) -> str:
    """The cursor of now, once the progress of the workers is known."""

    async def is_known() -> bool:
        return (await api.get(RECENT)).status_code == 200

    await eventually_async(is_known)
    return str((await recent(api))["cursor"])


async def following(api: httpx.AsyncClient, cursor: str, events: int, **query: Any) -> list[dict[str, Any]]:
    """Answers of a chain, until they count this number of events."""
    answers: list[dict[str, Any]] = []

    async def has_all() -> bool:
        answers.append(await recent(api, answers[-1]["cursor"] if answers else cursor, **query))
        return sum(sum(each["counts"].values()) for each in answers) >= events

    await eventually_async(has_all)
    return answers


def places(answers: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Partition and offset of all events shown."""
    return [(each["partition"], each["offset"]) for answer in answers for each in answer["events"]]


async def put_traffic(lab: Lab, name: str) -> None:
    """Six events: three stored, a duplicate, a rejection, and one of another namespace."""
    await lab.emit(*[click(execution=f"{name}-{number}", user_id="ada") for number in (0, 1, 2, 0)])
    await lab.put(as_json(position=-1, execution=f"{name}-bad", user_id="bob"), headers=encode_headers("default"))
    await lab.put(as_json(execution=name), headers=encode_headers("shop"))
    await lab.drain()


async def test_each_event_is_in_one_answer_of_a_chain(lab: Lab, api: httpx.AsyncClient) -> None:
    cursor = await started(api)
    answers: list[dict[str, Any]] = []
    for number in range(3):
        await put_traffic(lab, f"e{number}")
        answers += await following(api, answers[-1]["cursor"] if answers else cursor, 5)
    shown = places(answers)
    assert len(shown) == len(set(shown)) == 15
    counts = sum((Counter(each["counts"]) for each in answers), Counter())
    assert counts == Counter(stored=9, duplicate=3, rejected=3)
    assert not any(each["sampled"] or each["skipped"] for each in answers)
    for answer in answers:
        times = [each["timestamp"] for each in answer["events"]]
        assert times == sorted(times)
    last = answers[-1]
    assert (last["in_flight"], last["lag_ms"]) == (0, 0)
    assert (await recent(api, last["cursor"]))["events"] == []


async def test_callers_of_other_processes_and_filters_see_the_same(lab: Lab, api: httpx.AsyncClient) -> None:
    cursor = await started(api)
    await put_traffic(lab, "first")
    here = await following(api, cursor, 5)
    await put_traffic(lab, "second")
    here += await following(api, here[-1]["cursor"], 5)
    async with api_of(with_key(lab.settings), "reader") as other:
        await started(other)
        there = await following(other, cursor, 10)  # a cursor at no tick of this process
        there += await following(other, here[0]["cursor"], 0)
        assert set(places(there[:1])) == set(places(here))
    bobs = await following(api, cursor, 2, user_id="bob")
    assert [each["verdict"] for answer in bobs for each in answer["events"]] == ["rejected", "rejected"]
    duplicates = await following(api, cursor, 2, verdict="duplicate")
    assert [each["verdict"] for answer in duplicates for each in answer["events"]] == ["duplicate", "duplicate"]
    clicks = await following(api, cursor, 6, interaction_type="click")
    assert {each["verdict"] for answer in clicks for each in answer["events"]} == {"stored"}
    shop = (await api.get(RECENT, params={"cursor": cursor}, headers={"X-Namespace": "shop"})).json()
    assert shop["counts"] == dict.fromkeys(VERDICTS, 0) | {"stored": 2}


async def test_a_forged_cursor_hides_no_event_from_other_callers(lab: Lab, api: httpx.AsyncClient) -> None:
    """Keep no tick of its range as the first one of the feed."""
    cursor = await started(api)
    await put_traffic(lab, "a")
    await following(api, cursor, 5)
    forged = write_position(read_position(cursor)._replace(settled_ms=END_MS - 1))
    assert (await recent(api, forged, verdict="stored"))["events"] == []
    assert (await recent(api, cursor, verdict="stored"))["counts"]["stored"] == 3


async def test_without_a_cursor_the_last_events_are_shown(lab: Lab, api: httpx.AsyncClient) -> None:
    await put_traffic(lab, "e")
    await started(api)

    async def has_all() -> bool:
        return sum(Counter((await recent(api))["counts"]).values()) == 5

    await eventually_async(has_all)
    two = await recent(api, limit=2)
    assert (two["shown"], two["sampled"], two["skipped"]) == (2, True, 0)
    assert sum(two["counts"].values()) == 5


async def test_rare_verdicts_are_shown_and_all_are_counted(lab: Lab, api: httpx.AsyncClient) -> None:
    cursor = await started(api)
    bad = as_json(position=-1, execution="bad")
    await lab.put(bad, headers=encode_headers("default"))
    await lab.emit(*[click(execution=f"e-{number}") for number in range(40)], click(execution="e-0"))
    await lab.drain()
    answers = await following(api, cursor, 42, limit=6)
    assert sum((Counter(each["counts"]) for each in answers), Counter()) == Counter(stored=40, duplicate=1, rejected=1)
    verdicts = Counter(each["verdict"] for answer in answers for each in answer["events"])
    assert (verdicts["duplicate"], verdicts["rejected"]) == (1, 1)
    assert all(each["shown"] <= 6 for each in answers)
    assert any(each["sampled"] for each in answers)


async def test_a_deleted_event_shows_no_content(lab: Lab, api: httpx.AsyncClient) -> None:
    cursor = await started(api)
    first, again = await lab.emit(click(user_id="ada"), click(user_id="ada"))
    for each in (first, again):
        await api.delete(f"{PATH}/{each.interaction_id}")
    await lab.drain()
    (*_, answer) = await following(api, cursor, 2)
    assert [each["verdict"] for each in answer["events"]] == ["deleted", "deleted"]
    shown = {name for each in answer["events"] for name, value in each.items() if value is not None}
    assert shown == {"interaction_id", "verdict", "timestamp", "topic", "partition", "offset", "execution_id"}
    assert (await recent(api, cursor, user_id="ada"))["events"] == []


async def test_many_callers_cost_one_read(lab: Lab) -> None:
    progress = ConsumerProgress(lab.settings)
    feeds = EventFeeds(lab.settings, lab.database, progress, InFlightLimit(1, "lists", "TALLY_LISTS_IN_FLIGHT"))
    progress.note(1_000, {0: 0}, {0: 0})
    query = RecentQuery()
    cursor = (await feeds.recent("default", query))["cursor"]
    await put_traffic(lab, "e")
    ends = dict(enumerate(await lab.log_ends()))
    progress.note(2_000, ends, ends)
    again = query.model_copy(update={"cursor": cursor})
    # One read may be in flight: a second one would be refused.
    answers = await asyncio.gather(*(feeds.recent("default", again) for _ in range(50)))
    assert {sum(each["counts"].values()) for each in answers} == {5}
    (feed,) = feeds._feeds.values()
    assert len(feed.ticks) == 1
    feeds.close()
    assert not feeds._feeds


async def test_old_cursors_skip_records_and_say_so(lab: Lab) -> None:
    progress = ConsumerProgress(lab.settings)
    feeds = EventFeeds(lab.settings, lab.database, progress, InFlightLimit(9, "lists", "TALLY_LISTS_IN_FLIGHT"))
    partition = 1
    executions = executions_on(partition)
    await lab.emit(*[click(execution=next(executions)) for _ in range(4)])
    await lab.drain()
    old = LogPosition(lab.settings.topic, 1_000, 0, (0, 0))
    progress.note(50_000, {0: 0, 1: 3}, {0: 0, 1: 3})
    progress.note(70_000, {0: 0, 1: 4}, {0: 0, 1: 4})
    answer = await feeds.recent("default", RecentQuery(cursor=write_position(old)))
    assert (answer["skipped"], answer["counts"]["stored"]) == (3, 1)
    young = old._replace(at_ms=20_000)
    answer = await feeds.recent("default", RecentQuery(cursor=write_position(young)))
    assert (answer["skipped"], answer["counts"]["stored"]) == (0, 4)
    ahead = LogPosition(lab.settings.topic, 69_000, 0, (0, 9))
    answer = await feeds.recent("default", RecentQuery(cursor=write_position(ahead)))
    assert answer["counts"] == dict.fromkeys(VERDICTS, 0)
    assert read_position(answer["cursor"]) == LogPosition(lab.settings.topic, 69_000, 70_000, (0, 9))
    feeds.close()


async def test_the_bytes_of_ticks_are_bounded(lab: Lab) -> None:
    settings = lab.settings.model_copy(update={"recent_events_bytes": 1_500})
    progress = ConsumerProgress(settings)
    feeds = EventFeeds(settings, lab.database, progress, InFlightLimit(9, "lists", "TALLY_LISTS_IN_FLIGHT"))
    executions = executions_on(0)
    await lab.emit(*[click(execution=next(executions)) for _ in range(8)])
    await lab.drain()
    progress.note(1_000, {0: 0}, {0: 0})
    cursor = (await feeds.recent("default", RecentQuery()))["cursor"]
    for offset in range(1, 9):
        progress.note(1_000 + offset, {0: offset}, {0: offset})
        await feeds.recent("default", RecentQuery(cursor=cursor))
    (feed,) = feeds._feeds.values()
    assert 0 < sum(each.nbytes for each in feed.ticks) <= 1_500
    assert (await feeds.recent("default", RecentQuery(cursor=cursor)))["counts"]["stored"] == 8
    feeds.close()


async def test_invalid_requests_and_missing_stores_are_named(lab: Lab, api: httpx.AsyncClient) -> None:
    await started(api)
    for query, named in (
        ({"cursor": "x"}, "query.cursor: is not a cursor of this call"),
        ({"cursor": "WzFd"}, "query.cursor: is not a cursor of this call"),
        ({"limit": 501}, "query.limit"),
        ({"session_id": "s"}, "query.session_id"),
        ({"verdict": "stored,lost"}, "query.verdict: 'lost' is no verdict"),
    ):
        error = assert_error(await api.get(RECENT, params=query), 422, "ValidationError")
        assert error["message"].startswith(named), error["message"]
    without = lab.settings.model_copy(update={"kafka": ""})
    feeds = EventFeeds(without, lab.database, ConsumerProgress(without), InFlightLimit(1, "lists", "NONE"))
    with pytest.raises(ApiError, match="TALLY_KAFKA"):
        await feeds.recent("default", RecentQuery())
    feeds = EventFeeds(lab.settings, lab.database, ConsumerProgress(lab.settings), InFlightLimit(1, "lists", "NONE"))
    with pytest.raises(ApiError, match="not known yet"):
        await feeds.recent("default", RecentQuery())
    feeds.close()


counts_by_verdict = st.dictionaries(st.sampled_from(VERDICTS), st.integers(0, 1_000))


@given(counts_by_verdict, st.integers(1, 500))
def test_shares_use_all_places_and_no_verdict_is_crowded_out(counts: dict[str, int], most: int) -> None:
    shares = fair_shares(counts, most)
    assert sum(shares.values()) == min(most, sum(counts.values()))
    for verdict, count in counts.items():
        assert min(count, most // len(counts)) <= shares[verdict] <= count


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(VERDICTS)), max_size=60), st.integers(1, 30))
def test_the_newest_of_each_verdict_are_shown(pairs: list[tuple[int, str]], most: int) -> None:
    events = [TickEvent(at_ms, 0, offset, verdict, b"") for offset, (at_ms, verdict) in enumerate(pairs)]
    shown = newest_of_each(events, most)
    assert shown == sorted(shown)
    assert len(shown) == min(most, len(events))
    for left_out in set(events) - set(shown):
        assert all(left_out < each for each in shown if each.verdict == left_out.verdict)


offsets = st.lists(st.integers(0, 2**63 - 1), max_size=50).map(tuple)


@given(offsets, st.integers(0, 9_000_000_000_000), st.integers(0, 9_000_000_000_000))
def test_a_cursor_is_read_as_it_was_written(numbers: tuple[int, ...], at_ms: int, settled_ms: int) -> None:
    position = LogPosition("topic", at_ms, settled_ms, numbers)
    assert read_position(write_position(position)) == position


async def test_a_range_reads_its_rows_only(lab: Lab) -> None:
    """Ranges of a large table are found by the indexes of offsets and times."""
    rows = 400_000
    now_ms = 1_790_000_000_000
    await lab.database.command(
        "INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, position, timestamp, "
        "_event_time_ms, _topic, _partition, _offset) "
        f"SELECT 'default', concat('int_', lower(hex(toUInt64({now_ms} + number))), '7000800000000000'), 'd', "
        f"['click'], 0, fromUnixTimestamp64Milli(toInt64({now_ms} + number)), {now_ms} + number, {{topic:String}}, "
        f"number % 4, intDiv(number, 4) FROM numbers({rows})",
        {"topic": lab.settings.topic},
    )
    last = rows // 4
    wanted = EventRange((last - 1_000,) * 4, (last,) * 4, now_ms)
    bind = BoundParameters()
    sql = range_statement("default", lab.settings.topic, EventFilter.of(("stored",), {}), wanted, bind)
    assert sql is not None
    assert [(verdict, count) for verdict, count, _ in await lab.database.rows(sql, bind.values)] == [("stored", 4_000)]
    plan = "\n".join(str(line) for (line,) in await lab.database.rows(f"EXPLAIN indexes = 1 {sql}", bind.values))
    assert "offset_range" in plan
    granules = [int(read) for read in re.findall(r"Granules: (\d+)/\d+", plan)]
    assert granules[-1] <= 16, plan
