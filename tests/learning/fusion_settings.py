"""Settings of the learners that are compared, and those they were chosen from."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from benchmarks.environments import Environment
from learning.estimators.posterior import uniform_weights
from schemas.learning_config import LearningConfig
from tests.learning.fusion_learners import (
    EpsilonGreedyArms,
    GivenWeights,
    TallyLearner,
    WeightLearner,
)
from tests.learning.fusion_peers import PeerLearner
from tests.learning.fusion_world import FEATURES, FusionWorld

Options = dict[str, Any]


class LearnerSettings(NamedTuple):
    """Kind of a learner, and its options."""

    kind: str
    options: Options
    tried: tuple[Options, ...] = ()
    """Options that were tried on other seeds."""


def make_learner(
    world: FusionWorld, settings: LearnerSettings, found: Environment | None
) -> AbstractContextManager[WeightLearner]:
    """Return a learner for a world; a peer's process ends with the context."""
    options = settings.options.copy()
    match settings.kind:
        case "tally":
            strength = options.pop("strength", None)
            return nullcontext(TallyLearner(world, LearningConfig(**options), strength))
        case "uniform":
            return nullcontext(GivenWeights(np.array(uniform_weights(len(FEATURES)))))
        case "arms":
            return nullcontext(EpsilonGreedyArms(world, **options))
    assert found is not None, "peers have an environment of their own"
    return PeerLearner(world, found, options)


TALLY, UNIFORM = "tally, defaults", "uniform weights"
_DRIFT: Options = {"decay_factor": 0.9, "decay_window_days": 3}
_TOGETHER: Options = {"context_features": ()}
_SHRUNKEN: Options = {"min_interactions": 1, "decay_factor": 0.9}

PEERS: dict[str, LearnerSettings] = {
    "mabwiser EpsilonGreedy": LearnerSettings(
        "peer",
        {"policy": "epsilon_greedy", "epsilon": 0.05, "window": 3_000},
        tuple(
            {"policy": "epsilon_greedy", "epsilon": epsilon, "window": window}
            for epsilon in (0.05, 0.1)
            for window in (1_000, 3_000, 20_000)
        ),
    ),
    "mabwiser ThompsonSampling": LearnerSettings(
        "peer",
        {"policy": "thompson_sampling", "window": 20_000},
        tuple({"policy": "thompson_sampling", "window": window} for window in (1_000, 3_000, 20_000)),
    ),
    "mabwiser LinUCB": LearnerSettings(
        "peer",
        {"policy": "linucb", "alpha": 1.0, "window": 3_000},
        tuple(
            {"policy": "linucb", "alpha": alpha, "window": window}
            for alpha in (0.1, 0.3, 1.0, 2.0)
            for window in (1_000, 3_000)
        ),
    ),
    "Vowpal Wabbit cb_explore_adf": LearnerSettings(
        "peer",
        {"policy": "vowpalwabbit", "arguments": "--squarecb --gamma_scale 1000 -l 0.01 --power_t 0"},
        tuple(
            {"policy": "vowpalwabbit", "arguments": f"{arguments} --power_t 0"}
            for arguments in (
                "--epsilon 0.05 -l 0.002",
                "--epsilon 0.05 -l 0.01",
                "--epsilon 0.02 -l 0.005",
                "--epsilon 0.05 -l 0.01 -q WW",
                "--epsilon 0.02 -l 0.01 -q WW",
                "--epsilon 0.05 -l 0.05 -q WW",
                "--squarecb --gamma_scale 100 -l 0.01",
                "--squarecb --gamma_scale 1000 -l 0.01",
            )
        ),
    ),
}
"""Bandits of other projects over the arms."""

LEARNERS: dict[str, LearnerSettings] = {
    UNIFORM: LearnerSettings("uniform", {}),
    TALLY: LearnerSettings("tally", {}),
    "tally, decay for drift": LearnerSettings(
        "tally",
        {"decay_factor": 0.9, "decay_window_days": 14},
        tuple({"decay_factor": 0.9, "decay_window_days": days} for days in (3, 7, 14)),
    ),
    "tally, all users together": LearnerSettings("tally", {"context_features": ()}),
    "tally, together, decay for drift": LearnerSettings(
        "tally",
        _TOGETHER | _DRIFT,
        tuple(_TOGETHER | {"decay_factor": 0.9, "decay_window_days": days} for days in (1, 2, 3, 5)),
    ),
    "proposal: personal from the global posterior": LearnerSettings(
        "tally",
        _SHRUNKEN | {"decay_window_days": 3, "strength": 300.0},
        tuple(
            _SHRUNKEN | {"decay_window_days": days, "strength": strength}
            for days in (3, 7)
            for strength in (30.0, 100.0, 300.0)
        ),
    ),
    "epsilon-greedy arms": LearnerSettings(
        "arms",
        {"epsilon": 0.02, "memory": 1_000},
        tuple(
            {"epsilon": epsilon, "memory": memory} for epsilon in (0.02, 0.05, 0.1) for memory in (500, 1_000, 3_000)
        ),
    ),
} | PEERS
