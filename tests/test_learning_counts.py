"""Counts of contexts: the generation in force of each day, and nothing else."""

import uuid

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from learning.estimators.posterior import ResultCount, day_sums
from learning.weights import counts
from learning.weights.counts import GLOBAL, ContextKey, read_counts, read_sums
from schemas.interaction import INTERACTION_TYPES, InteractionType
from schemas.learning_config import LearningConfig
from schemas.rewards import RewardMap
from tests.lab import Lab
from tests.weights_lab import count, publish_counts

USER = ContextKey("personal", "ann")


async def test_only_the_generation_in_force_counts(lab: Lab) -> None:
    rows = ", ".join(
        f"('default', 'r', '{level}', '{context}', toDate({day}), {generation}, 'text', [1, 3], [1, 2], {results})"
        for level, context, day, generation, results in (
            ("personal", "ann", 20_000, 5, 7),
            ("personal", "ann", 20_000, 6, 8),
            ("personal", "ann", 20_001, 5, 9),
            ("personal", "bob", 20_001, 5, 10),
            ("global", "", 20_001, 7, 11),
        )
    )
    await lab.database.command(f"INSERT INTO learning_counts VALUES {rows}")
    days = "('default', 'r', toDate(20000), 6), ('default', 'r', toDate(20000), 5), ('default', 'r', toDate(20001), 5)"
    await lab.database.command(f"INSERT INTO learning_days VALUES {days}")

    found = await read_counts(lab.database, "default", "r", [USER, GLOBAL])

    assert found == {
        USER: [ResultCount(20_000, "text", (1, 3), (1, 2), 8), ResultCount(20_001, "text", (1, 3), (1, 2), 9)]
    }
    assert await read_counts(lab.database, "default", "r", [USER], last_day=20_000) == {
        USER: [ResultCount(20_000, "text", (1, 3), (1, 2), 8)]
    }


COUNTS = st.lists(
    st.builds(
        lambda day, feature, sets, results: ResultCount(
            day, feature, tuple(sorted(sets)), tuple(sets[each] for each in sorted(sets)), results
        ),
        st.integers(19_999, 20_001),
        st.sampled_from(["a", "b'\\\n"]),
        st.dictionaries(st.integers(1, 2 ** len(INTERACTION_TYPES) - 1), st.integers(1, 5), min_size=1, max_size=4),
        st.integers(1, 1_000),
    ),
    max_size=30,
    unique_by=lambda count: count[:4],
)
REWARDS = st.dictionaries(st.sampled_from(INTERACTION_TYPES), st.floats(-1_000, 1_000), min_size=1)


@hypothesis_settings(max_examples=30)
@given(counts=COUNTS, rewards=REWARDS, most=st.floats(0.1, 100))
async def test_clickhouse_adds_up_what_python_does(
    shared_lab: Lab, counts: list[ResultCount], rewards: dict[InteractionType, float], most: float
) -> None:
    micros, name, key = RewardMap(rewards, most).in_micros(), uuid.uuid4().hex, ContextKey("personal", "tab\t'quote\\")
    await publish_counts(shared_lab.database, name, {key: counts})
    found = await read_sums(shared_lab.database, "default", name, [key, GLOBAL], micros)
    assert found == {key: day_sums(counts, micros), GLOBAL: {}}


async def test_the_features_of_a_context_with_most_results_are_known(
    shared_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "_SUMS", counts._SUMS.replace(f"LIMIT {counts.MAX_KNOWN_FEATURES} BY", "LIMIT 2 BY"))
    found = [count("rare", 1, impression=1), count("often", 5, impression=1), count("mostly", 9, age=1, impression=1)]
    await publish_counts(shared_lab.database, "many-features", {GLOBAL: found})
    rewards = LearningConfig().rewards.in_micros()
    sums = await read_sums(shared_lab.database, "default", "many-features", [GLOBAL], rewards)
    assert {feature for feature, _ in sums[GLOBAL]} == {"often", "mostly"}
