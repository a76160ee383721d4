"""Bandits of other projects as learners of weights: they choose among arms, in processes of their own."""

import json
import subprocess
from typing import Any, Self

import numpy as np

from benchmarks.environments import Environment
from tests.learning.fusion_learners import ARM_PARTS, ROUND_SEARCHES, WeightLearner
from tests.learning.fusion_world import FEATURES, SHOWN, USERS, Floats, FusionWorld, ShownResults, simplex

USER_RESULTS = 20.0
"""Results with the mean click rate that a user's click rates start from."""


class PeerLearner(WeightLearner):
    """Arms chosen by a peer, from the user and the user's click rate of each feature relative to that of all users."""

    def __init__(self, world: FusionWorld, found: Environment, options: dict[str, Any]) -> None:
        self._world, self._arms = world, simplex(ARM_PARTS)
        self._shown = np.zeros((USERS, len(FEATURES)))
        self._clicked = np.zeros((USERS, len(FEATURES)))
        self._clicks: list[int] = []
        self._process = subprocess.Popen(
            [str(found.python), str(found.script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        sizes = {"round_searches": ROUND_SEARCHES, "results": SHOWN}
        self._send({"arms": self._arms.tolist(), "seed": world.seed, **sizes, **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def serve(self, searches: slice) -> Floats:
        """Return the weights of the peer's arms. Raises RuntimeError if it has ended."""
        users = self._world.user[searches]
        given = {"clicks": self._clicks, "users": users.tolist(), "contexts": self._contexts(users).tolist()}
        self._send(given)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer ended with {self._process.wait()}")
        weights: Floats = self._arms[json.loads(answer)]
        return weights

    def learn(self, searches: slice, found: ShownResults) -> None:
        """Keep the clicks for the next call, and count those of each user."""
        self._clicks = found.clicked.sum(axis=1).tolist()
        users = np.repeat(self._world.user[searches][:, None], found.features.shape[1], axis=1)
        np.add.at(self._shown, (users, found.features), 1)
        np.add.at(self._clicked, (users, found.features), found.clicked)

    def _contexts(self, users: Any) -> Floats:
        overall = (self._clicked.sum() + 1) / (self._shown.sum() + USER_RESULTS)
        rates = (self._clicked[users] + USER_RESULTS * overall) / (self._shown[users] + USER_RESULTS)
        found: Floats = np.column_stack([np.ones(len(users)), rates / overall - 1])
        return found

    def _send(self, given: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(given) + "\n")
