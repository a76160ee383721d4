"""Estimates of changed learning configurations, from stored decisions whose truth is known."""

from typing import Any

import numpy as np
import pytest

from learning.estimators.posterior import ResultCount, Shape, posterior
from learning.scope import LearningScope, Refusal
from learning.weights.config_text import ConfigError
from learning.weights.counts import GLOBAL, ContextKey
from learning.weights.tuning import MIDNIGHT, ComparedConfig, WhatIfEstimate, WhatIfRequest, estimate_what_if
from learning.weights.tuning_config import changed_config, read_versions
from learning.weights.tuning_log import read_decisions
from learning.weights.tuning_target import TargetDraws, target_draws
from schemas.learning_config import LearningConfig
from schemas.rewards import RewardMap
from tests.analytics.loading import load
from tests.lab import Lab
from tests.tuning_lab import (
    CLICKED,
    CONFIG,
    DAYS,
    FEATURES,
    NOT_CLICKED,
    RETRIEVER,
    TODAY,
    UNTIL,
    changing_counts,
    configure,
    execution,
    expected_clicks,
    known_log,
    scope,
    served,
    store_counts,
    stored_log,
)

EXECUTIONS = 900
WHOLE = posterior(changing_counts(), CONFIG, TODAY)


async def what_if(lab: Lab, changes: dict[str, Any], **options: Any) -> tuple[ComparedConfig, WhatIfEstimate]:
    wanted = WhatIfRequest(scope(), changes, **options)
    return await estimate_what_if(lab.settings, lab.database, wanted)


@pytest.fixture
async def fusion(lab: Lab) -> Lab:
    """A retriever whose weights were drawn, and the clicks that followed."""
    await stored_log(lab)
    await load(lab.database, "default", known_log(EXECUTIONS).events)
    return lab


async def test_the_expected_reward_of_another_decay_is_the_true_one(lab: Lab) -> None:
    """Events go through the worker: the truth is known, and the decay in force forgets too slowly."""
    await stored_log(lab)
    log = known_log(EXECUTIONS)
    await lab.emit_all(log.events)
    assert (await lab.drain()).stored == len(log.events)
    compared, estimate = await what_if(lab, {"decay_factor": 0.94})
    found = estimate.found
    assert found.logged.value == pytest.approx(log.clicks / EXECUTIONS)
    assert found.weights.ess > 300
    truth = {decay: expected_clicks(CONFIG.model_copy(update={"decay_factor": decay})) for decay in (0.94, 0.97)}
    assert truth[0.94] - truth[0.97] > 0.05
    for each in found.estimates:
        assert each.low < truth[0.94] < each.high
    assert found.difference.low < truth[0.94] - truth[0.97] < found.difference.high
    assert (estimate.notes, estimate.left_out, estimate.executions) == ((MIDNIGHT,), {}, EXECUTIONS)
    assert compared.described()["changes"] == {"decay_factor": {"in_force": 0.97, "changed": 0.94}}
    image, text = estimate.weights
    assert (image.feature_uri, text.feature_uri, text.level) == (*FEATURES, "global")
    assert text.served == pytest.approx(np.mean([each["text"] for each in log.weights]))
    others = known_log(5_000, CONFIG.model_copy(update={"decay_factor": 0.94}), seed=3).weights
    assert text.expected == pytest.approx(np.mean([each["text"] for each in others]), abs=0.02)


async def test_the_configuration_in_force_changes_nothing(fusion: Lab) -> None:
    _, estimate = await what_if(fusion, {"decay_factor": CONFIG.decay_factor})
    assert estimate.found.difference.value == 0
    assert estimate.found.weights.ess == pytest.approx(EXECUTIONS)
    assert estimate.notes == ()


async def test_another_exploration_is_compared_with_the_posterior_that_was_served(lab: Lab) -> None:
    """Without any counts in the store: they are in the decisions."""
    await configure(lab)
    await load(lab.database, "default", known_log(EXECUTIONS).events)
    _, estimate = await what_if(lab, {"exploration_bonus": 0.8})
    truth = expected_clicks(CONFIG.model_copy(update={"exploration_bonus": 0.8}))
    assert estimate.found.estimates[1].low < truth < estimate.found.estimates[1].high
    assert estimate.notes == ()
    with pytest.raises(Refusal, match=r"none of 900 .* \(900: no counts before that day"):
        await what_if(lab, {"decay_factor": 0.94})


async def test_both_are_measured_by_the_same_rewards(fusion: Lab) -> None:
    """The rewards that weights are learned from are not those by which the estimate is measured."""
    bought = [each for number in range(0, EXECUTIONS, 3) for each in execution(number, DAYS[0], None, "purchase")][1::2]
    await load(fusion.database, "default", bought, first=10_000)
    rewards = {"click": 1.0, "purchase": 3.0}
    compared, by_click = await what_if(fusion, {"reward_map": rewards})
    _, by_purchase = await what_if(fusion, {"reward_map": rewards}, measure=RewardMap({"purchase": 3}, 2.5))
    assert compared.measure.rewards == {"click": 1}
    assert by_click.found.logged.value == pytest.approx(known_log(EXECUTIONS).clicks / EXECUTIONS)
    assert by_purchase.found.logged.value == pytest.approx(2.5 / 3)
    assert by_click.found.weights.ess == by_purchase.found.weights.ess


async def drawn(lab: Lab, config: LearningConfig) -> TargetDraws:
    """Draws of a configuration for the stored decisions."""
    versions = await read_versions(lab.database, "default", RETRIEVER)
    log = await read_decisions(lab.settings, lab.database, scope(), versions.in_force, RewardMap())
    (found,) = await target_draws(lab.database, scope(), log.decisions, [config], versions.known)
    return found


async def test_levels_and_posteriors_are_those_of_the_days_before(lab: Lab) -> None:
    """A user from min_interactions on, then the segment, then all; counts of the same day and later do not count."""
    config = LearningConfig(
        context_features=("INPUT.user_id",), demographic_features=("CONTEXT.country",), min_interactions=5
    )
    day = DAYS[2]
    counts = {
        ContextKey("personal", "ann"): [
            ResultCount(day - 1, "text", *CLICKED, 5),
            ResultCount(day, "text", *CLICKED, 9),
        ],
        ContextKey("personal", "bob"): [
            ResultCount(day - 1, "text", *CLICKED, 4),
            ResultCount(day, "text", *CLICKED, 9),
        ],
        ContextKey("segment", "ch"): [ResultCount(day - 2, "image", *CLICKED, 5)],
        GLOBAL: [ResultCount(day - 1, "text", *NOT_CLICKED, 3), ResultCount(day + 1, "text", *CLICKED, 9)],
    }
    await configure(lab, config)
    await store_counts(lab, counts)
    random = np.random.default_rng(1)
    country = {"country": "ch"}
    events = [
        each
        for number, (user, on, metadata) in enumerate(
            [("ann", day, country), ("bob", day, country), ("bob", day, {}), ("bob", day + 1, {}), ("cy", day - 1, {})]
        )
        for each in execution(
            number,
            on,
            None,
            user=user,
            metadata={**metadata, "learned_fusion_context": served(random, config, WHOLE).context},
        )
    ]
    await load(lab.database, "default", events)
    target = config.model_copy(update={"decay_factor": 0.9})
    found = await drawn(lab, target)
    known = {(each.decision.user, each.decision.segment, each.decision.day): each for each in found.draws}
    prior = Shape(1, 1)
    assert {key: (each.level, each.shapes) for key, each in known.items()} == {
        ("ann", "ch", day): ("personal", (prior, Shape(1 + 0.9 * 5, 1))),
        ("bob", "ch", day): ("segment", (Shape(1 + 0.9**2 * 5, 1), prior)),
        ("bob", "", day): ("global", (prior, Shape(1, 1 + 0.9 * 3))),
        ("bob", "", day + 1): ("personal", (prior, Shape(1 + 0.9**2 * 4 + 0.9 * 9, 1))),
    }
    assert known["ann", "ch", day].exploration == pytest.approx(0.99**5)
    assert found.left_out == {"no_counts": 1}, "the global level has nothing before its first day"
    without = await drawn(lab, target.model_copy(update={"fallback_strategy": "global"}))
    assert {each.level for each in without.draws if each.decision.segment} == {"personal", "global"}
    together = await drawn(lab, target.model_copy(update={"context_features": (), "demographic_features": None}))
    assert {each.level for each in together.draws} == {"global"}


def context(**more: Any) -> dict[str, Any]:
    return served(np.random.default_rng(2), CONFIG, WHOLE, **more).context


OTHER_BOUNDS = CONFIG.model_copy(update={"min_weight": 0.1})


async def test_executions_without_a_drawn_decision_are_left_out_and_counted(fusion: Lab) -> None:
    """Version 1 has the bounds of the change, version 2, which is in force, has others."""
    await configure(fusion, OTHER_BOUNDS, version=2)
    await configure(fusion, CONFIG, version=3)
    odd: list[tuple[str, dict[str, Any] | None]] = [
        ("missing", None),
        ("static", {"context_level": "static"}),
        ("shadow", context(shadow=True)),
        ("session", context(session=True)),
        ("mean", context(effective_exploration=0.0)),
        ("unreadable", {"context_level": "global"}),
        ("unreadable", {"context_level": "planet"}),
        ("unreadable", context(posterior={"text": [1, 0], "image": [1, 1]})),
        ("unreadable", context(sampled_weights={"text": 2, "image": 0.5})),
        ("unreadable", context(sampled_weights={"text": 0.2})),
        ("unreadable", context(interactions=-1_000_000)),
        ("unreadable", context(interactions=10**400)),
        ("bounds", context(config_version=2)),
        ("bounds", context(config_version=77)),
    ]
    events = [each for number, (_, one) in enumerate(odd, 5_000) for each in execution(number, DAYS[1], one, "click")]
    events += execution(5_800, DAYS[1], context(), "click", retriever_id="other")
    events += [*execution(5_801, DAYS[1], context(), "click")][1:]
    events += execution(5_900, DAYS[1], context(interactions=10_000))
    events += [*execution(6_000, DAYS[1], context()), *execution(6_000, DAYS[1], context(interactions=7))]
    await load(fusion.database, "default", events, first=50_000)
    _, before = await what_if(fusion, {"exploration_bonus": 0.8})
    assert before.left_out == {
        **{"missing": 1, "static": 1, "shadow": 1, "session": 1, "mean": 1},
        **{"unreadable": 7, "bounds": 2, "conflicting": 1},
    }
    assert before.found.weights.executions == EXECUTIONS + 1
    assert before.executions == EXECUTIONS + 16
    decided = CONFIG.model_copy(update={"exploration_decay": 0.9, "exploration_floor": 0.0})
    assert (await drawn(fusion, decided)).left_out == {"bounds": 2, "target_mean": 1}


async def test_erased_users_leave_no_trace(fusion: Lab) -> None:
    before = await what_if(fusion, {"decay_factor": 0.94})
    more = [each for number in range(2_000, 2_050) for each in execution(number, DAYS[0], context(), "click", user="x")]
    await load(fusion.database, "default", more, first=90_000)
    assert await what_if(fusion, {"decay_factor": 0.94}) != before
    await fusion.database.command(
        "INSERT INTO interactions SELECT * REPLACE (toUInt8(1) AS is_deleted, version + 1 AS version) "
        "FROM interactions WHERE user_id = 'x'"
    )
    assert await what_if(fusion, {"decay_factor": 0.94}) == before


async def test_changes_that_the_log_cannot_judge_are_refused(fusion: Lab) -> None:
    cases: list[tuple[dict[str, Any], float, str]] = [
        ({"min_weight": 0.2}, 1, r"none of 900 .*\(900: the weights had other bounds"),
        ({"decay_factor": 0.94}, 800, "at least 800 is needed"),
        ({"prior_alpha": 5_000}, 100, "effective sample size is"),
        ({"context_features": ["INPUT.user_id"]}, 1, "counts of users exist only"),
        ({"demographic_features": ["INPUT.x"]}, 1, "counts of segments exist only"),
    ]
    for changes, min_ess, says in cases:
        with pytest.raises(Refusal, match=says):
            await what_if(fusion, changes, min_ess=min_ess)


async def test_logs_that_lack_decisions_are_refused(fusion: Lab) -> None:
    with pytest.raises(Refusal, match="has no learning configuration in force"):
        await estimate_what_if(fusion.settings, fusion.database, WhatIfRequest(scope(retriever="other"), {}))
    nothing = LearningScope("default", RETRIEVER, UNTIL, UNTIL.replace(year=UNTIL.year + 1))
    with pytest.raises(Refusal, match="showed no results"):
        await estimate_what_if(fusion.settings, fusion.database, WhatIfRequest(nothing, {}))
    few = fusion.settings.model_copy(update={"whatif_executions": 899})
    with pytest.raises(Refusal, match=r"more than 899 executions: .* TALLY_WHATIF_EXECUTIONS"):
        await estimate_what_if(few, fusion.database, WhatIfRequest(scope(), {}))
    small = fusion.settings.model_copy(update={"learning_text_bytes": 1_000})
    with pytest.raises(Refusal, match=r"more than 1,000 bytes: .* TALLY_LEARNING_TEXT_BYTES"):
        await estimate_what_if(small, fusion.database, WhatIfRequest(scope(), {}))
    bare = [each for number in range(9_000, 9_060) for each in execution(number, DAYS[0], None)]
    await load(fusion.database, "default", bare, first=70_000)
    with pytest.raises(Refusal, match="60 of 960 executions have no decision: put learned_fusion_context"):
        await what_if(fusion, {"decay_factor": 0.94})
    impossible = context(posterior={"text": [1e6, 1], "image": [1, 1e6]}, sampled_weights={"text": 0.01, "image": 0.99})
    wrong = [*execution(9_900, DAYS[0], impossible)]
    await load(fusion.database, "default", wrong, first=80_000)
    await fusion.database.command("ALTER TABLE interactions DELETE WHERE metadata = '{}' SETTINGS mutations_sync = 1")
    with pytest.raises(Refusal, match="2 draws are impossible under the posterior"):
        await what_if(fusion, {"decay_factor": 0.94})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"decay": 0.9}, "decay: is not a name of a learning configuration (did you mean decay_factor or decay_window"),
        ({"rollout_pct": 10}, "rollout_pct: does not change learned weights"),
        ({"decay_factor": 2}, "decay_factor: must be a number from 0.9 to 1"),
        ({"reward_map": {"clik": 1}}, "reward_map.clik: "),
        ({"decay_factor": float("nan")}, "decay_factor: must be a number from 0.9 to 1"),
    ],
)
def test_wrong_changes_name_the_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        changed_config(CONFIG, changes)
    assert says in str(refused.value)
