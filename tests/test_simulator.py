"""The simulator: reproducible, valid, and with flaws at the rates that were asked for."""

import itertools
from collections import Counter
from datetime import UTC, datetime

import pytest

from producers.simulator import Simulator
from schemas.identity import mint_id
from schemas.interaction import REFERENCE_TYPES, Interaction
from schemas.validator import validate
from schemas.wire import ValidEvent, encode_value

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def take(count: int, seed: int = 1, duplicates: float = 0.05, late: float = 0.02) -> list[Interaction]:
    simulator = Simulator(seed, duplicates=duplicates, late=late, clock=lambda: NOON)
    return list(itertools.islice(iter(simulator), count))


def test_a_seed_determines_the_stream() -> None:
    assert take(2_000) == take(2_000)
    assert take(200) != take(200, seed=2)


def test_every_event_is_valid() -> None:
    # The simulator skips the model's checks for speed, so the validator checks each event.
    for interaction in take(5_000):
        assert isinstance(validate(encode_value(interaction, mint_id())), ValidEvent)


def test_flaws_occur_at_the_given_rates() -> None:
    events = take(20_000, duplicates=0.2, late=0.1)
    distinct = {(event.execution_id, event.feature_id, event.interaction_type[0]) for event in events}
    assert 0.18 < 1 - len(distinct) / len(events) < 0.22
    assert 0.08 < sum(event.occurred_at is not None for event in events) / len(events) < 0.12
    assert all(event.occurred_at < NOON for event in events if event.occurred_at)
    clean = take(5_000, duplicates=0, late=0)
    assert len({(e.execution_id, e.feature_id, e.interaction_type[0]) for e in clean}) == len(clean)


def test_all_17_types_occur_and_impressions_are_most_frequent() -> None:
    counts = Counter(event.interaction_type[0] for event in take(40_000))
    assert set(counts) == set(REFERENCE_TYPES)
    assert counts.most_common(1)[0][0] == "impression"
    assert counts["purchase"] < counts["add_to_cart"] < counts["click"] < counts["impression"]


def test_clicks_fall_with_position() -> None:
    events = take(40_000, duplicates=0)

    def rate(position: int) -> float:
        kinds = Counter(event.interaction_type[0] for event in events if event.position == position)
        return kinds["click"] / kinds["impression"]

    assert rate(0) > rate(2) > rate(6)


def test_a_share_above_nine_tenths_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and"):
        Simulator(1, duplicates=1.0)
