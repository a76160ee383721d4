"""The rule of silence and unusual shares: never without a baseline, never about events that may still wait."""

from collections.abc import Sequence

import pytest

from readers import silence
from readers.silence import DAYS, MIN_EVENTS, Assessment, WindowCounts

BUSY = WindowCounts(2_310, 46, 0)
NONE = WindowCounts()
MINUTE_MS = 60_000


def assess(
    last: WindowCounts, days: Sequence[WindowCounts], silence_ms: int | None, latest: WindowCounts = NONE
) -> Assessment:
    return silence.assess(last, days, silence_ms, latest)


def test_a_busy_namespace_without_events_is_silent_after_ten_minutes() -> None:
    found = assess(WindowCounts(150), [BUSY] * DAYS, 14 * MINUTE_MS)
    assert (found.silent, found.expected) == (True, 2_310)
    assert found.problems == ["no event for 14 min; 2,156 were expected"]
    assert assess(NONE, [BUSY] * DAYS, 90 * MINUTE_MS).problems == [
        "no event for 90 min; 2,310 were expected in the last 15 min"
    ]
    assert assess(NONE, [BUSY] * DAYS, 180 * MINUTE_MS).problems[0].startswith("no event for 3 h;")
    assert not assess(WindowCounts(150), [BUSY] * DAYS, 10 * MINUTE_MS - 1).silent
    assert assess(WindowCounts(150), [BUSY] * DAYS, 10 * MINUTE_MS).silent


@pytest.mark.parametrize(
    ("days", "is_silent"),
    [
        ([], False),
        ([NONE] * DAYS, False),
        ([BUSY] * (DAYS - 1) + [NONE], False),
        ([NONE] * 3 + [BUSY] * 4, True),
        ([NONE] * 4 + [BUSY] * 3, False),
        ([WindowCounts(MIN_EVENTS - 1)] * DAYS, False),
        ([WindowCounts(MIN_EVENTS)] * DAYS, True),
    ],
    ids=["none", "empty", "six days old", "most days", "few days", "few events", "enough"],
)
def test_silence_needs_a_baseline(days: list[WindowCounts], is_silent: bool) -> None:
    found = assess(NONE, days, 60 * MINUTE_MS)
    assert found.silent == is_silent
    assert bool(found.problems) == is_silent


def test_a_daily_job_that_has_ended_is_not_silent() -> None:
    assert assess(BUSY, [BUSY] * DAYS, 12 * MINUTE_MS).problems == []
    assert not assess(BUSY, [BUSY] * DAYS, 12 * MINUTE_MS).silent
    assert assess(WindowCounts(BUSY.events // 3), [BUSY] * DAYS, 12 * MINUTE_MS).silent


def test_quiet_weekends_are_neither_silent_nor_do_they_hide_a_silent_friday() -> None:
    on_friday = [BUSY] * 4 + [NONE] * 2 + [BUSY]
    on_saturday = [BUSY] * 5 + [NONE] * 2
    assert assess(NONE, on_friday, 60 * MINUTE_MS).silent
    assert not assess(NONE, on_saturday, 60 * MINUTE_MS).silent
    assert assess(NONE, on_friday, 60 * MINUTE_MS).expected == pytest.approx(5 * BUSY.events / 7, abs=0.1)


def test_silence_is_not_judged_while_events_may_wait() -> None:
    assert not assess(NONE, [BUSY] * DAYS, None).silent


def test_an_unusual_share_of_duplicates_is_a_problem() -> None:
    found = assess(WindowCounts(1_000, 310, 0), [BUSY] * DAYS, 0, WindowCounts(300, 3, 0))
    assert found.problems == ["31 % duplicates in the last 15 min (1 % in the last 5); 2 % are usual"]
    assert (found.duplicate_share, found.rejected_share) == (0.31, 0)
    assert found.expected_duplicate_share == pytest.approx(46 / 2_310)
    without_usual = ["31 % duplicates in the last 15 min (no event in the last 5); 20 % are acceptable"]
    assert assess(WindowCounts(1_000, 310), [], 0).problems == without_usual
    usual = [WindowCounts(1_000, 200)] * DAYS
    assert assess(WindowCounts(1_000, 310), usual, 0).problems == []
    assert assess(WindowCounts(99, 99), [BUSY] * DAYS, 0).problems == [], "too few events"
    assert assess(WindowCounts(100, 21), [BUSY] * DAYS, 0).problems == [], "not surely above the limit"


def test_an_unusual_share_of_rejections_is_a_problem() -> None:
    found = assess(WindowCounts(1_000, 0, 50), [BUSY] * DAYS, 0, WindowCounts(100, 50, 10))
    assert found.problems == ["5 % rejected in the last 15 min (10 % in the last 5); 0 % are usual"]
    assert assess(WindowCounts(1_000, 0, 50), [WindowCounts(1_000, 0, 40)] * DAYS, 0).problems == []


def test_a_namespace_without_any_event_has_no_shares() -> None:
    assert assess(NONE, [NONE] * DAYS, None)[:6] == (None, False, None, None, None, None)
