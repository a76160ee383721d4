"""The health report: each fault of the tracking is counted, with examples that have it, and nothing else is."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from readers.filter_text import read_filter
from schemas.analytics.health import CHECKS, EXAMPLES
from schemas.interaction import Interaction
from schemas.wire import encode_headers
from tests.lab import Lab, as_json, click
from tests.reports_lab import END, made, rows_of

NOW = datetime.now(UTC)
BEGAN_AT = NOW.replace(minute=10, second=0, microsecond=0) - timedelta(hours=5)
"""Event time of an event without another one."""
HOURS = 5
"""Hours of the clock from the first event to the present one, which is not over."""
PRESENT_HOUR = BEGAN_AT.replace(minute=0) + timedelta(hours=HOURS)
RANGE = {"since": BEGAN_AT - timedelta(minutes=5), "until": NOW + timedelta(hours=2)}


def event(kind: str, execution: str | None, feature: str = "a", **fields: Any) -> Interaction:
    """An event without a fault, unless a field makes one."""
    complete = {
        "interaction_type": [kind],
        "occurred_at": BEGAN_AT,
        "query_snapshot": {"text": "red shoes"},
        "feature_uri": "mixpeek://text",
        "document_score": 0.5,
        "result_set_size": 10,
        "user_id": "ada",
    }
    return click(feature, execution, **complete | fields)


def in_every_hour() -> list[Interaction]:
    """Executions without a fault, one in each hour."""
    return [
        event(kind, f"hour-{hour}", occurred_at=BEGAN_AT + timedelta(hours=hour))
        for hour in range(HOURS)
        for kind in ("impression", "click")
    ]


async def health(lab: Lab, **options: Any) -> dict[str, dict[str, Any]]:
    """The report's rows by check."""
    return {row["check"]: row for row in await rows_of(lab, "health", **RANGE | options)}


def found(rows: dict[str, dict[str, Any]], *columns: str) -> dict[str, tuple[Any, ...]]:
    """Some columns of the checks that found a fault, silent hours aside: the next hour may begin during a test."""
    return {
        name: tuple(row[column] for column in columns)
        for name, row in rows.items()
        if row["faults"] and name != "silent_hours"
    }


async def test_tracking_without_faults_passes_every_check(lab: Lab) -> None:
    await lab.emit(*in_every_hour())
    await lab.drain()
    rows = await health(lab)
    rows["silent_hours"] = (await health(lab, until=PRESENT_HOUR))["silent_hours"]
    assert sorted(rows) == sorted(check.name for check in CHECKS)
    assert found(rows) == {}
    assert {(row["status"], row["share"], len(row["examples"])) for row in rows.values()} == {("ok", 0, 0)}
    assert {name: row["of"] for name, row in rows.items()} == {
        "bots": 1,
        "clicks_without_impression": HOURS,
        "clock_ahead": 2 * HOURS,
        "duplicates": 2 * HOURS,
        "executions_without_impressions": HOURS,
        "missing_document_score": HOURS,
        "missing_execution_id": 2 * HOURS,
        "missing_feature_uri": 2 * HOURS,
        "missing_query": HOURS,
        "positions_beyond_result_set": 2 * HOURS,
        "rejected": 2 * HOURS,
        "silent_hours": HOURS,
    }


async def test_without_events_there_is_no_data(lab: Lab) -> None:
    rows = await health(lab)
    assert {row["check"] for row in rows.values()} == {check.name for check in CHECKS}
    assert {(row["status"], row["share"], row["of"]) for row in rows.values()} == {("no data", None, 0)}


@pytest.mark.parametrize(
    ("faulty", "check", "of"),
    [
        (event("impression", "x", position=10), "positions_beyond_result_set", 2 * HOURS + 1),
        (event("purchase", None), "missing_execution_id", 2 * HOURS + 1),
        (event("impression", "x", feature_uri=None), "missing_feature_uri", 2 * HOURS + 1),
        (event("impression", "x", document_score=None), "missing_document_score", HOURS + 1),
        (event("impression", "x", occurred_at=NOW + timedelta(hours=1)), "clock_ahead", 2 * HOURS + 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_event_with_a_fault_is_counted_and_named(lab: Lab, faulty: Interaction, check: str, of: int) -> None:
    await lab.emit(*in_every_hour())
    (sent,) = await lab.emit(faulty)
    await lab.drain()
    rows = await health(lab)
    assert found(rows, "faults", "of", "examples") == {check: (1, of, [sent.interaction_id])}
    never_fails = check in ("missing_feature_uri", "missing_document_score")
    assert rows[check]["status"] == ("ok" if never_fails else "fails")
    assert rows[check]["share"] == pytest.approx(1 / of)


async def test_an_execution_without_impressions_is_counted_and_named(lab: Lab) -> None:
    """One with zero_results has none to send, and an event without an execution belongs to none."""
    await lab.emit(
        *in_every_hour(),
        event("click", "unseen"),
        event("zero_results", "nothing-found", result_set_size=0),
    )
    await lab.drain()
    assert found(await health(lab), "status", "faults", "of", "examples") == {
        "executions_without_impressions": ("fails", 1, HOURS + 2, ["unseen"]),
        "clicks_without_impression": ("fails", 1, HOURS + 1, ["unseen"]),
    }


async def test_a_click_needs_an_impression_of_its_own_result(lab: Lab) -> None:
    await lab.emit(*in_every_hour(), event("impression", "x", "a"), event("click", "x", "b"))
    await lab.drain()
    assert found(await health(lab), "status", "faults", "of", "examples") == {
        "clicks_without_impression": ("fails", 1, HOURS + 1, ["x"])
    }


async def test_a_click_after_an_impression_before_the_range_is_no_fault(lab: Lab) -> None:
    """The start of a range divides executions; each is counted by its events within it."""
    before, after = (BEGAN_AT + timedelta(minutes=minutes) for minutes in (-30, 0))
    await lab.emit(
        *in_every_hour(),
        event("impression", "divided", occurred_at=before),
        event("click", "divided", occurred_at=after, query_snapshot=None),
        event("click", "earlier", occurred_at=before),
    )
    await lab.drain()
    rows = await health(lab)
    assert found(rows) == {}
    assert rows["clicks_without_impression"]["of"] == HOURS + 1
    assert rows["executions_without_impressions"]["of"] == HOURS + 1
    assert rows["missing_query"]["of"] == HOURS + 1
    assert rows["missing_execution_id"]["of"] == 2 * HOURS + 1


async def test_an_execution_without_a_query_is_counted_and_named(lab: Lab) -> None:
    await lab.emit(*in_every_hour(), event("impression", "x", query_snapshot={"filters": ["red"]}))
    await lab.drain()
    assert found(await health(lab), "status", "faults", "of", "examples") == {
        "missing_query": ("fails", 1, HOURS + 1, ["x"])
    }


async def test_duplicates_name_the_owners_with_the_most(lab: Lab) -> None:
    """With a condition there is no data, because outcomes lack most fields."""
    receipts = await lab.emit(*in_every_hour())
    for times, number in ((3, 7), (2, 4), (1, 0), (1, 9)):
        await lab.emit(*[in_every_hour()[number]] * times)
    await lab.drain()
    rows = await health(lab)
    assert found(rows, "status", "faults", "of") == {"duplicates": ("fails", 7, 2 * HOURS + 7)}
    owners = [receipts[number].interaction_id for number in (7, 4)]
    assert rows["duplicates"]["examples"] == [*owners, min(receipts[number].interaction_id for number in (0, 9))]
    rows = await health(lab, filters=read_filter("feature_id=a"))
    assert {name for name, row in rows.items() if row["status"] == "no data"} == {"duplicates", "rejected"}
    assert rows["missing_execution_id"]["of"] == 2 * HOURS


async def test_rejected_events_are_counted_and_named(lab: Lab) -> None:
    await lab.emit(*in_every_hour())
    for number in range(EXAMPLES + 1):
        await lab.put(as_json(position=-1 - number), headers=encode_headers("default"))
    await lab.put(as_json(position=-1), headers=encode_headers("shop"))
    await lab.drain()
    rows = await health(lab)
    assert found(rows, "status", "faults", "of") == {"rejected": ("fails", EXAMPLES + 1, 2 * HOURS + EXAMPLES + 1)}
    rejected = await lab.rows("SELECT interaction_id FROM outcomes WHERE namespace = 'default' ORDER BY 1")
    assert rows["rejected"]["examples"] == [name for (name,) in rejected[:EXAMPLES]]


async def test_hours_without_an_event_are_counted_and_named(lab: Lab) -> None:
    """Hours before the first event, and the present one, are not."""
    silent = [BEGAN_AT.replace(minute=0) + timedelta(hours=hour) for hour in (2, 4)]
    await lab.emit(*[each for number, each in enumerate(in_every_hour()) if number // 2 not in (2, 4)])
    await lab.drain()
    row = (await health(lab, since=NOW - timedelta(days=30), until=PRESENT_HOUR))["silent_hours"]
    assert (row["status"], row["faults"], row["of"]) == ("fails", 2, HOURS)
    assert row["examples"] == [f"{hour:%Y-%m-%d %H:00:00}" for hour in silent]


async def test_a_user_with_more_executions_than_a_person_is_a_bot(lab: Lab) -> None:
    """Executions of an hour count, and not their events or those of a day."""
    await lab.emit(*in_every_hour())
    await lab.emit(*[event("impression", f"robot-{number}", user_id="robot") for number in range(4)])
    await lab.emit(*[event("impression", f"person-{number}", user_id="person") for number in range(3)])
    await lab.emit(*[event("click", "person-1", f"result-{number}", user_id="person") for number in range(9)])
    await lab.emit(*[event("impression", "person-1", f"result-{number}", user_id="person") for number in range(9)])
    await lab.drain()
    assert found(await health(lab, bot_executions=3), "status", "faults", "of", "examples") == {
        "bots": ("fails", 1, 3, ["robot"])
    }
    notes = (await made(lab, "health", bot_executions=3)).notes
    assert "examples of bots are users: `tally export interactions --where user_id=ID` shows one" in notes
    assert (await made(lab, "health", since=END - timedelta(minutes=1))).is_nothing


async def test_examples_are_few_and_the_same_each_time(lab: Lab) -> None:
    await lab.emit(*in_every_hour())
    sent = await lab.emit(*[event("purchase", None, f"result-{number}") for number in range(9)])
    await lab.drain()
    ids = sorted(each.interaction_id for each in sent)[:EXAMPLES]
    for _ in range(2):
        assert (await health(lab))["missing_execution_id"]["examples"] == ids


async def test_a_check_fails_above_its_limit_and_not_at_it(lab: Lab) -> None:
    """A fifth of all events may be duplicates."""
    (allowed,) = (check.limit for check in CHECKS if check.name == "duplicates")
    stored = [event("impression", f"x-{number}", user_id=None) for number in range(8)]
    await lab.emit(*stored, *stored[:2])
    await lab.drain()
    row = (await health(lab))["duplicates"]
    assert (row["share"], row["status"]) == (allowed, "ok")
    await lab.emit(stored[0])
    await lab.drain()
    assert (await health(lab))["duplicates"]["status"] == "fails"
