"""Decisions about weights: levels, rollout, shadow mode, sessions and draws, without stores."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.estimators.posterior import Posterior, posterior
from learning.weights.breaker import BreakerOpen, CircuitBreakers
from learning.weights.counts import ContextKey, Level, contexts_of
from learning.weights.decisions import (
    MAX_FEATURES,
    Evidence,
    NoFeatures,
    WeightRequest,
    decide,
    decide_static,
    is_rolled_out,
)
from runtime.learning_configs import ConfigInForce
from schemas.learning_config import LearningConfig
from schemas.type_sets import type_set
from tests.weights_lab import count, today

SEED = 2**64 - 1
ANN = WeightRequest("default", "dense", user_id="ann", segment="phone|de")


def held(**options: Any) -> ConfigInForce:
    options.setdefault("demographic_features", ["INPUT.device", "INPUT.country"])
    return ConfigInForce(7, LearningConfig(**options), datetime.now(UTC), 1)


def clicked(results: int, feature: str = "image") -> Posterior:
    """Posterior of a context with this number of results, each shown and clicked."""
    return posterior([count(feature, results, impression=1, click=1)], LearningConfig(), today())


def evidence(**results: int) -> Evidence:
    levels: tuple[Level, ...] = ("personal", "segment", "global")
    return Evidence({level: clicked(results.get(level, 0)) for level in levels if level in results})


def test_the_features_with_most_data_are_served_by_default() -> None:
    """An event names any feature, so a retriever may have thousands of them by mistake or by malice."""
    counts = [count(f"new-{number:04}", impression=1) for number in range(2_000)]
    often = [count(name, 9, impression=1, click=1) for name in ("text", "image")]
    found = posterior([*counts, *often], LearningConfig(), today())
    few = decide(ANN, held(), Evidence({"global": found}), 20, SEED)
    assert len(few.weights) == MAX_FEATURES
    assert {"text", "image"} < few.weights.keys()
    assert few.context["feature_uris"] == sorted(few.weights)


@pytest.mark.parametrize(
    ("results", "level"),
    [
        ({"personal": 3, "segment": 9, "global": 9}, "personal"),
        ({"personal": 2, "segment": 3, "global": 9}, "segment"),
        ({"personal": 2, "segment": 2, "global": 1}, "global"),
        ({"segment": 3, "global": 0}, "segment"),
    ],
)
def test_a_context_is_used_from_min_interactions_on(results: dict[str, int], level: str) -> None:
    found = decide(ANN._replace(features=("image",)), held(min_interactions=3), evidence(**results), 20, SEED)
    assert found.context["context_level"] == level
    assert found.context["interactions"] == results[level]


def test_without_a_result_static_weights_are_served() -> None:
    nothing = Evidence({"global": Posterior({}, 0)})
    found = decide(ANN._replace(features=("image", "text", "title")), held(), nothing, 20, SEED)
    assert found.weights == {"image": 1 / 3, "text": 1 / 3, "title": 1 / 3}
    assert (found.context["context_level"], found.context["reason"]) == ("static", "no_data")
    with pytest.raises(NoFeatures):
        decide(ANN, held(), nothing, 20, SEED)
    with pytest.raises(NoFeatures):
        decide_static(None, "no_config", ())


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({}, ["personal", "segment", "global"]),
        ({"fallback_strategy": "global"}, ["personal", "global"]),
        ({"context_features": []}, ["segment", "global"]),
        ({"demographic_features": None}, ["personal", "global"]),
    ],
)
def test_the_configuration_names_the_contexts(options: dict[str, Any], levels: list[str]) -> None:
    found = contexts_of(held(**options).config, ANN.user_id, ANN.segment)
    assert [each.level for each in found] == levels
    assert found[-1] == ContextKey("global")
    assert contexts_of(held(**options).config, "", "") == (ContextKey("global"),)


def test_a_context_key_does_not_name_the_user() -> None:
    found = decide(ANN, held(), evidence(personal=9, **{"global": 9}), 20, SEED)
    key = found.context["context_key"]
    assert key.startswith("personal:")
    assert len(key) == len("personal:") + 16
    assert "ann" not in str(found.context)
    others = [ANN._replace(user_id="bob"), ANN._replace(retriever="r"), ANN._replace(namespace="shop")]
    keys = {decide(each, held(), evidence(personal=9), 20, SEED).context["context_key"] for each in (ANN, *others)}
    assert len(keys) == 4


@given(st.integers(0, SEED), st.floats(0, 0.5), st.floats(0.5, 1), st.booleans())
def test_weights_follow_from_the_recorded_draw(seed: int, least: float, most: float, is_mean: bool) -> None:
    """Weights are the clipped shares over their sum, the draws those of the seed, and the mean needs no seed."""
    configured = held(min_weight=least, max_weight=most)
    request = ANN._replace(features=("text", "image"), is_mean=is_mean)
    found = decide(request, configured, evidence(**{"global": 4}), 20, seed)
    assert found == decide(request, configured, evidence(**{"global": 4}), 20, found.seed or 0)
    draws = found.context["sampled_weights"]
    clipped = {name: min(most, max(least, value / sum(draws.values()))) for name, value in draws.items()}
    total = sum(clipped.values())
    assert found.weights == pytest.approx({name: value / total for name, value in clipped.items()})
    assert math.isclose(sum(found.weights.values()), 1)
    alpha, beta = found.context["posterior"]["text"]
    if is_mean:
        assert draws["text"] == alpha / (alpha + beta)
        assert (found.seed, found.context["effective_exploration"]) == (None, 0)


def test_a_feature_without_counts_has_the_prior() -> None:
    request = ANN._replace(features=("unseen",), is_mean=True)
    found = decide(request, held(prior_alpha=3, prior_beta=1), evidence(**{"global": 4}), 20, SEED)
    assert found.context["posterior"] == {"unseen": (3, 1)}
    assert found.context["sampled_weights"] == {"unseen": 0.75}


def test_a_session_changes_the_level_that_is_used_and_stands_alone_without_data() -> None:
    events = {("image", type_set(["impression"])): 3, ("image", type_set(["click"])): 3}
    request = ANN._replace(features=("image", "text"), session_id="s", is_mean=True)
    before = decide(request, held(), evidence(**{"global": 9}), 20, SEED)
    after = decide(request, held(), evidence(**{"global": 9})._replace(session=events), 20, SEED)
    assert after.weights["image"] > before.weights["image"]
    assert (before.context["session"], after.context["session"]) == (False, True)
    alone = decide(request._replace(features=()), held(), Evidence({}, events), 20, SEED)
    assert alone.context["context_level"] == "global"
    assert alone.context["posterior"] == {"image": (4, 1)}


def test_shadow_mode_serves_equal_weights_and_keeps_the_learned_ones() -> None:
    request = ANN._replace(features=("image", "text"))
    learned = decide(request, held(), evidence(personal=50), 20, SEED)
    shadow = decide(request, held(shadow_mode=True), evidence(personal=50), 20, SEED)
    assert shadow.weights == {"image": 0.5, "text": 0.5} != learned.weights
    assert shadow.learned == learned.weights
    assert shadow.context == {**learned.context, "shadow": True}
    assert (shadow.label, learned.label) == (("static", "shadow"), ("personal", "learned"))


@given(st.text(min_size=1), st.floats(0, 100), st.floats(0, 100))
def test_a_user_who_is_rolled_out_stays_so_as_the_share_grows(user: str, one: float, other: float) -> None:
    request = ANN._replace(user_id=user)
    small, large = sorted((one, other))
    assert is_rolled_out(request, small, 0) <= is_rolled_out(request, large, 1)
    assert is_rolled_out(request, 100, 0)
    assert not is_rolled_out(request, 0, 0)
    session = request._replace(user_id="", session_id=user)
    assert is_rolled_out(session, one, 0) == is_rolled_out(session, one, 5_000)


def test_the_share_of_users_is_that_of_the_configuration() -> None:
    users = [ANN._replace(user_id=f"user-{number}") for number in range(20_000)]
    share = sum(is_rolled_out(each, 12.5, 0) for each in users) / len(users)
    assert abs(share - 0.125) < 4 * math.sqrt(0.125 * 0.875 / len(users))
    without = ANN._replace(user_id="")
    assert [is_rolled_out(without, 0.01, chance) for chance in (0, 1, 10_000)] == [True, False, True]


def test_a_breaker_opens_at_a_failure_lets_one_request_try_and_closes_at_a_success() -> None:
    now, name = 0.0, ("default", "dense")
    breakers = CircuitBreakers(5, lambda: now)

    def attempt(error: Exception | None = None) -> str:
        try:
            with breakers.attempt(name):
                if error:
                    raise error
        except BreakerOpen:
            return "open"
        except TimeoutError:
            return "failed"
        return "ok"

    assert [attempt(), attempt(TimeoutError()), attempt()] == ["ok", "failed", "open"]
    with breakers.attempt(("default", "other")):
        pass
    now = 5.0
    with breakers.attempt(name):
        assert attempt() == "open"  # while another request tries
    with breakers.attempt(name):
        assert attempt() == "ok"  # closed: nobody tries alone
    assert attempt(TimeoutError()) == "failed"
    now = 10.0
    assert [attempt(TimeoutError()), attempt()] == ["failed", "open"]
