"""Live traffic of the simulator: at its rate, in the order of time, no execution torn apart, late events bounded."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple

import pytest

from producers.simulation.faults import INVALID_EVENTS
from producers.simulation.live import LATE_MS, MAX_LATE, MAX_LIVE_RATE, LiveTraffic
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from schemas.event_time import to_epoch_ms
from schemas.identity import mint_id
from schemas.interaction import Interaction
from schemas.validator import validate
from schemas.wire import ValidEvent, encode_value
from tally.pace import MAX_BEHIND_MS, in_real_time
from tests.analytics_reference import dated

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = to_epoch_ms(NOON)


class Arrival(NamedTuple):
    """Event, with the time in ms at which it was appended."""

    append_ms: int
    event: Interaction

    @property
    def event_ms(self) -> int:
        return to_epoch_ms(self.event.occurred_at) if self.event.occurred_at else self.append_ms


def simulator_of(seed: int = 1, *, duplicates: float = 0.05, bad: float = 0) -> Simulator:
    return Simulator(seed, clock=lambda: NOON, duplicates=duplicates, bad=bad)


def arrivals(traffic: LiveTraffic, seconds: float) -> list[Arrival]:
    """Take the events of `seconds`, then the late ones, as a pace that is never behind does."""
    found = list[Arrival]()
    while (due_ms := traffic.due_ms) < NOON_MS + seconds * 1_000:
        if (event := traffic.take()) is not None:
            found.append(Arrival(due_ms, event))
    while traffic.held:
        found.append(Arrival(due_ms, traffic.take_held()))
    return found


def by_execution(found: list[Arrival]) -> dict[str, list[Arrival]]:
    of = defaultdict[str, list[Arrival]](list)
    for each in found:
        if each.event.execution_id:
            of[each.event.execution_id].append(each)
    return of


@pytest.mark.parametrize("rate", [0.5, 5.0, 300.0])
def test_the_mean_rate_is_the_given_one_from_the_first_seconds_on(rate: float) -> None:
    found = arrivals(simulator_of().live(rate, late=0), 4_000 / rate)
    assert found[0].append_ms == NOON_MS
    assert len(found) == pytest.approx(4_000, abs=100)
    for share in (0.1, 0.5):
        end_ms = NOON_MS + share * 4_000_000 / rate
        assert sum(each.append_ms < end_ms for each in found) == pytest.approx(4_000 * share, rel=0.15)


def test_a_seed_determines_live_traffic() -> None:
    assert arrivals(simulator_of().live(5), 100) == arrivals(simulator_of().live(5), 100)
    assert arrivals(simulator_of().live(5), 100) != arrivals(simulator_of(2).live(5), 100)


@pytest.mark.parametrize("late", [0.0, 0.3])
def test_no_reaction_comes_before_its_impression_and_clicks_take_seconds(late: float) -> None:
    found = arrivals(simulator_of().live(50, late), 600)
    assert [each.append_ms for each in found] == sorted(each.append_ms for each in found)
    delays = list[int]()
    for of_one in by_execution(found).values():
        shown = {e.event.feature_id: e.event_ms for e in reversed(of_one) if e.event.interaction_type == ["impression"]}
        for each in of_one:
            if shown and each.event.interaction_type != ["impression"]:
                assert each.event_ms >= max(shown.values()) + 1_000
        clicks = [each.event_ms for each in of_one if each.event.interaction_type == ["click"]]
        delays += [ms - min(shown.values()) for ms in clicks[:1]]
    assert 3_000 < median(delays) < 8_000
    sessions = [each.event.session_id for each in found]
    assert len(list(itertools.groupby(sessions))) > 1.5 * len(set(sessions)), "sessions interleave"


def test_late_events_keep_their_time_and_arrive_within_bounds() -> None:
    simulator = simulator_of(duplicates=0)
    traffic = simulator.live(50, late=0.1)
    found = arrivals(traffic, 600)
    late = [each for each in found if each.event.occurred_at]
    assert len(late) == simulator.emitted.late
    assert len(late) / len(found) == pytest.approx(0.1, abs=0.015)
    in_time = [each for each in late if each.append_ms < found[-1].append_ms]
    assert all(LATE_MS[0] <= each.append_ms - each.event_ms <= LATE_MS[1] for each in in_time)
    assert all(isinstance(validate(encode_value(each.event, mint_id())), ValidEvent) for each in late)
    assert len(found) == simulator.emitted.events


def test_every_execution_has_all_its_impressions() -> None:
    """Wherever time ends: the impressions of an execution are due together, and late ones arrive at the end."""
    for seconds in range(20, 60, 7):
        found = arrivals(simulator_of(duplicates=0).live(20, late=0.2), seconds)
        for of_one in by_execution(found).values():
            positions = [each.event.position for each in of_one if each.event.interaction_type == ["impression"]]
            size = of_one[0].event.result_set_size or 0
            assert sorted(positions) == list(range(size))


def test_repeats_follow_their_original_within_a_minute() -> None:
    first = dict[tuple[str | None, str, str], int]()
    apart = list[int]()
    for append_ms, event in arrivals(simulator_of(duplicates=0.3).live(5), 2_000):
        key = event.execution_id, event.feature_id, event.interaction_type[0]
        if event.execution_id and key in first:
            apart.append(append_ms - first[key])
        first.setdefault(key, append_ms)
    assert len(apart) > 1_000
    assert max(apart) <= 60_000 + 60_000, "a repeat of a repeat is one of its original, too"


def test_faults_are_counted_in_live_traffic() -> None:
    simulator = simulator_of(bad=0.2)
    found = arrivals(simulator.live(100), 300)
    invalid = [each for each in found if not isinstance(validate(encode_value(each.event, mint_id())), ValidEvent)]
    assert len(invalid) == simulator.emitted.rejected == sum(simulator.emitted.faults[kind] for kind in INVALID_EVENTS)
    assert len(found) == simulator.emitted.events


def test_no_reaction_of_a_backfill_comes_before_its_impression() -> None:
    shown = dict[str | None, int]()
    for ms, event in dated(Simulator(3, duplicates=0, clock=lambda: NOON, backfill=Backfill(1, 0.2))):
        if event.interaction_type == ["impression"]:
            shown[event.execution_id] = ms
        elif event.execution_id in shown:
            assert ms >= shown[event.execution_id] + 1_000


@pytest.mark.parametrize(
    ("rate", "late"), [(0, 0.0), (MAX_LIVE_RATE + 1, 0.0), (float("nan"), 0.0), (5, -0.1), (5, MAX_LATE + 0.01)]
)
def test_wrong_rates_and_shares_are_refused(rate: float, late: float) -> None:
    with pytest.raises(ValueError, match=r"between 0 and|more than 0 and at most"):
        simulator_of().live(rate, late)


def test_a_backfill_has_no_live_traffic() -> None:
    with pytest.raises(ValueError, match="backfill"):
        Simulator(1, backfill=Backfill(1, 1)).live(5)


class Clock:
    """Clock that only the waits of the pace move. `before_wait` runs before each of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON_MS / 1_000
        self.before_wait: Callable[[], None] = lambda: None
        monkeypatch.setattr("tally.pace.time.time", lambda: self.now)
        monkeypatch.setattr("tally.pace._wait", self._wait)

    async def _wait(self, _stop: asyncio.Event, seconds: float) -> None:
        self.before_wait()
        self.now += max(seconds, 0)


async def paced(clock: Clock, traffic: LiveTraffic, stop: asyncio.Event, seconds: float | None) -> list[Arrival]:
    return [Arrival(round(clock.now * 1_000), event) async for event in in_real_time(traffic, stop, seconds=seconds)]


async def test_events_are_sent_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await paced(Clock(monkeypatch), simulator_of().live(20), asyncio.Event(), 60)
    expected = arrivals(simulator_of().live(20), 60)
    assert [each.event for each in found] == [each.event for each in expected]
    assert all(
        abs(a.append_ms - b.append_ms) <= 1 for a, b in zip(found, expected, strict=True) if not b.event.occurred_at
    )


async def test_a_number_of_events_is_exact_with_late_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    for events in range(1, 200, 13):
        simulator = simulator_of()
        traffic = simulator.live(20, late=0.3)
        found = [event async for event in in_real_time(traffic, asyncio.Event(), events=events)]
        assert len(found) == simulator.emitted.events == events


async def test_a_stop_cuts_sessions_and_sends_late_events(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stop, waits = Clock(monkeypatch), asyncio.Event(), itertools.count()
    clock.before_wait = lambda: stop.set() if next(waits) == 300 else None
    simulator = simulator_of(duplicates=0)
    traffic = simulator.live(20, late=0.3)
    found = await paced(clock, traffic, stop, None)
    assert len(found) == simulator.emitted.events > 300
    assert traffic.held == 0
    for of_one in by_execution(found).values():
        positions = [each.event.position for each in of_one if each.event.interaction_type == ["impression"]]
        assert sorted(positions) == list(range(of_one[0].event.result_set_size or 0))


async def test_lost_time_is_not_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour without a chance to send, events keep their distances, and late ones their true times."""
    clock, stalls = Clock(monkeypatch), itertools.count()

    def stall() -> None:
        clock.now += 3_600 * (next(stalls) == 100)

    clock.before_wait = stall
    found = await paced(clock, simulator_of(duplicates=0).live(20, late=0.2), asyncio.Event(), 3_900)
    after = [each for each in found if each.append_ms > NOON_MS + 3_600_000]
    assert len(after) < 20 * 400
    for of_one in by_execution(found).values():
        shown = [each.event_ms for each in of_one if each.event.interaction_type == ["impression"]]
        others = [each.event_ms for each in of_one if each.event.interaction_type != ["impression"]]
        if shown and others:
            assert min(others) >= max(shown) + 1_000 - MAX_BEHIND_MS
    assert all(each.event.occurred_at < NOON + timedelta(seconds=3_900) for each in found if each.event.occurred_at)


async def test_a_stop_ends_a_wait() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    async with asyncio.timeout(30):
        found = [event async for event in in_real_time(Simulator(1).live(0.001, late=0), stop)]
    assert len(found) <= 20
