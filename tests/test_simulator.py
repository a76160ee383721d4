"""The simulator: reproducible, valid, with shares of flaws as given, and ordered backfills."""

import itertools
import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from producers.simulation.catalogue import CATEGORIES
from producers.simulation.faults import FAULTS_OF_EXECUTIONS, INVALID_EVENTS
from producers.simulation.people import population
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill, relative_traffic
from producers.simulation.world import RETRIEVERS, the_world
from schemas.event_time import to_epoch_ms
from schemas.identity import mint_id
from schemas.interaction import REFERENCE_TYPES, Interaction
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import ValidEvent, encode_value
from tests.analytics_reference import dated, executions_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def simulator_of(seed: int = 1, **options: Any) -> Simulator:
    return Simulator(seed, clock=lambda: NOON, **options)


def take(size: int, seed: int = 1, **options: Any) -> list[Interaction]:
    return list(itertools.islice(iter(simulator_of(seed, **options)), size))


def test_a_seed_determines_the_stream() -> None:
    assert take(2_000) == take(2_000)
    assert take(200) != take(200, seed=2)
    backfill = Backfill(0.2, 0.2)
    assert take(2_000, backfill=backfill, bad=0.1) == take(2_000, backfill=backfill, bad=0.1)


@pytest.mark.parametrize("options", [{}, {"backfill": Backfill(0.3, 0.2)}])
def test_every_event_is_valid(options: dict[str, Any]) -> None:
    # The simulator skips the model's checks for speed, so the validator checks each event.
    for interaction in take(5_000, **options):
        assert isinstance(validate(encode_value(interaction, mint_id())), ValidEvent)


def test_duplicates_occur_at_the_given_rate_and_load_has_no_event_times() -> None:
    events = [event for event in take(20_000, duplicates=0.2) if event.execution_id]
    distinct = {(event.execution_id, event.feature_id, event.interaction_type[0]) for event in events}
    assert 0.18 < 1 - len(distinct) / len(events) < 0.22
    clean = [event for event in take(5_000, duplicates=0) if event.execution_id]
    assert len({(e.execution_id, e.feature_id, e.interaction_type[0]) for e in clean}) == len(clean)
    assert not [event for event in events if event.occurred_at]


def test_all_17_types_occur_and_impressions_are_most_frequent() -> None:
    counts = Counter(event.interaction_type[0] for event in take(40_000))
    assert set(counts) == set(REFERENCE_TYPES)
    assert counts.most_common(1)[0][0] == "impression"
    assert counts["purchase"] < counts["add_to_cart"] < counts["click"] < counts["impression"]


def test_all_events_of_an_execution_name_the_same_search() -> None:
    fields = ("query_snapshot", "retriever_id", "user_id", "session_id")
    events = [event for event in take(10_000) if event.execution_id]
    for _, of_one in itertools.groupby(sorted(events, key=lambda e: e.execution_id or ""), lambda e: e.execution_id):
        assert len({str([getattr(event, name) for name in fields]) for event in of_one}) == 1


def test_impressions_come_in_the_order_of_position_and_before_other_events() -> None:
    positions: dict[str | None, list[int]] = {}
    for event in take(10_000, duplicates=0):
        if event.interaction_type == ["impression"]:
            positions.setdefault(event.execution_id, []).append(event.position)
        elif event.interaction_type == ["click"]:
            assert event.position in positions[event.execution_id]
    assert all(found == list(range(len(found))) for found in positions.values())


def test_users_keep_their_device_and_retriever_and_some_are_anonymous() -> None:
    traits: dict[str | None, set[str]] = {}
    for event in take(20_000, users=50):
        if event.execution_id:
            device = (event.metadata or {})["device"], event.retriever_id
            traits.setdefault(event.user_id or event.session_id, set()).add(str(device))
    assert all(len(found) == 1 for found in traits.values())
    assert len([name for name in traits if (name or "").startswith("user-")]) in range(45, 51)
    assert len([name for name in traits if (name or "").startswith("s-")]) > 50


def test_a_fifth_of_the_sessions_is_anonymous() -> None:
    known = {event.session_id: event.user_id is not None for event in take(30_000)}
    assert abs(sum(known.values()) / len(known) - 0.8) < 5 * math.sqrt(0.16 / len(known))


def test_one_document_is_open_at_a_time_and_clicks_come_in_any_order() -> None:
    clicks: dict[str | None, list[tuple[int, int]]] = {}
    dwells: dict[str | None, list[tuple[int, int]]] = {}
    for ms, event in dated(simulator_of(duplicates=0, backfill=Backfill(1, 0.2))):
        if event.interaction_type == ["click"]:
            clicks.setdefault(event.execution_id, []).append((ms, event.position))
        elif event.interaction_type == ["dwell"]:
            dwells.setdefault(event.execution_id, []).append((ms - (event.metadata or {})["dwell_ms"], ms))
    open_at = [(ms, dwell) for name, found in clicks.items() for ms, _ in found for dwell in dwells.get(name, [])]
    assert len(open_at) > 500
    assert not [ms for ms, (opened, left) in open_at if opened < ms < left]
    positions = [[position for _ms, position in found] for found in clicks.values()]
    assert 0 < len([found for found in positions if found != sorted(found)]) < len(positions) / 5


def test_activity_of_users_is_uneven_but_no_user_dominates() -> None:
    found = population(2_000)
    activities = sorted((b - a for a, b in itertools.pairwise((0.0, *found.cumulated))), reverse=True)
    assert 0.25 < sum(activities[:200]) / sum(activities) < 0.5
    assert activities[0] / sum(activities) < 0.01


def test_queries_follow_zipf_and_every_intent_has_reformulations() -> None:
    world = the_world()
    assert len({query.text for query in world.queries}) == len(world.queries) > 100
    assert min(map(len, world.intents)) >= 2
    assert len(world.documents) == 50 * len(CATEGORIES)
    probabilities = sorted((query.probability for query in world.queries), reverse=True)
    assert probabilities[0] / probabilities[9] == pytest.approx(10)
    top = max(world.queries, key=lambda query: query.probability)
    firsts: dict[str | None, str] = {}
    for event in take(60_000, duplicates=0):
        if event.query_snapshot:
            firsts.setdefault(event.session_id, event.query_snapshot["text"])
    share = Counter(firsts.values())[top.text] / len(firsts)
    assert abs(share - top.probability) < 5 * math.sqrt(top.probability / len(firsts))


def test_a_document_of_a_query_is_shown_at_several_positions() -> None:
    world = the_world()
    moved = 0
    for retriever, found in zip(RETRIEVERS, world.orderings, strict=True):
        for orderings in found:
            assert len({frozenset(ranked.document.id for ranked in ordering) for ordering in orderings}) <= 1
            moved += len({tuple(ranked.document.id for ranked in ordering) for ordering in orderings}) > 1
            for position in range(len(orderings[0]) if orderings else 0):
                by_document = {ordering[position].document.id: ordering[position].propensity for ordering in orderings}
                assert sum(by_document.values()) == pytest.approx(1)
        assert (() in found) == (retriever.without_results > 0)
    assert moved > 400


def test_a_backfill_is_in_the_order_of_event_time_and_ends_now() -> None:
    backfill = Backfill(days=1, rate=0.3)
    simulator = simulator_of(duplicates=0, backfill=backfill)
    events = list(simulator)
    times = [ms for ms, _event in dated(events)]
    assert len(times) == len(events) == simulator.emitted.events == pytest.approx(86_400 * 0.3, rel=0.1)
    assert times == sorted(times)
    assert times[0] >= to_epoch_ms(NOON - timedelta(days=1))
    assert to_epoch_ms(NOON - timedelta(minutes=5)) < times[-1] < to_epoch_ms(NOON)
    sessions = [event.session_id for event in events]
    assert len(list(itertools.groupby(sessions))) > 1.2 * len(set(sessions)), "sessions interleave"


def test_traffic_of_a_backfill_has_a_daily_cycle() -> None:
    hours = Counter(ms // 3_600_000 % 24 for ms, _event in dated(simulator_of(backfill=Backfill(3, 0.1))))
    evening, morning = (sum(hours[hour] for hour in range(first, first + 4)) for first in (18, 6))
    assert evening > 2 * morning
    assert sum(relative_traffic(hour * 3_600_000) for hour in range(24)) == pytest.approx(24)


def test_purchases_without_an_execution_have_user_and_session() -> None:
    purchases = [event for event in take(100_000, duplicates=0) if event.interaction_type == ["purchase"]]
    without = [event for event in purchases if event.execution_id is None]
    assert abs(len(without) / len(purchases) - 0.1) < 5 * math.sqrt(0.09 / len(purchases))
    assert all(event.session_id and event.metadata and "price" in event.metadata for event in without)


def test_faults_are_planted_and_counted() -> None:
    simulator = simulator_of(bad=0.2, duplicates=0.05, backfill=Backfill(3, 0.2))
    events = list(simulator)
    faults = simulator.emitted.faults
    assert set(faults) == {*FAULTS_OF_EXECUTIONS, "bot"}
    invalid = [event for event in events if isinstance(validate(encode_value(event, mint_id())), Rejection)]
    assert len(invalid) == simulator.emitted.rejected == sum(faults[kind] for kind in INVALID_EVENTS) > 50
    assert Counter(event.position < 0 for event in invalid) == {
        True: faults["negative_position"],
        False: faults["unknown_type"],
    }
    ahead = {event.execution_id for event in events if event.occurred_at and event.occurred_at > NOON}
    assert 0 < len(ahead) <= faults["clock_ahead"]
    beyond = {event.execution_id for event in events if event.position >= (event.result_set_size or math.inf)}
    assert len(beyond) == faults["position_beyond_results"]
    of_bots = {event.session_id for event in events if (event.user_id or "").startswith("bot-")}
    assert len(of_bots) == faults["bot"]
    executions = {event.execution_id for event in events}
    no_query = {event.execution_id for event in events if event.execution_id and not event.query_snapshot}
    assert len(no_query) == faults["no_query"]
    planted = sum(count for kind, count in faults.items() if kind != "bot")
    assert 0.14 < planted / len(executions) < 0.22


def test_executions_without_impressions_and_clicks_without_impression_are_counted() -> None:
    simulator = simulator_of(bad=0.2, duplicates=0, backfill=Backfill(3, 0.1))
    events = dated(simulator)
    with_click_alone = [each for each in executions_of(events) if set(each.clicked) - set(each.shown)]
    assert len([e for e in with_click_alone if e.shown]) == simulator.emitted.faults["click_without_impression"]
    types: dict[str | None, set[str]] = {}
    for _ms, event in events:
        types.setdefault(event.execution_id, set()).update(event.interaction_type)
    silent = [found for name, found in types.items() if name and not found & {"impression", "zero_results"}]
    assert len(silent) == simulator.emitted.faults["no_impressions"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"duplicates": 1.0}, "between 0 and"),
        ({"bad": 0.6}, "between 0 and"),
        ({"shuffle": 1.1}, "shuffled executions"),
        ({"users": 0}, "number of users"),
        ({"lifts": {"sparse": 1.1}}, "not a retriever"),
        ({"lifts": {"dense": 11}}, "lift of dense"),
        ({"backfill": Backfill(0, 1)}, "days"),
        ({"backfill": Backfill(1, 0)}, "rate"),
    ],
)
def test_wrong_parameters_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Simulator(1, **options)
