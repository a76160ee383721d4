"""Bandits of mabwiser and Vowpal Wabbit over the same arms, for a simulation in another process.

It runs in a separate environment. The first line of the input has the arms (weights of features) and the settings.
Each later line is a round: the arms, clicks, users and contexts of the round before, with their probabilities, and the
users and contexts of this one. The answer to a round has the arm of each search.
"""

import json
import sys
from collections import deque
from typing import Any

import numpy as np
import vowpalwabbit
from mabwiser.mab import MAB, LearningPolicy


class Mabwiser:
    """A policy of mabwiser, fitted in each round to the last `window` searches."""

    def __init__(self, arms: list[list[float]], options: dict[str, Any]) -> None:
        names = {
            "epsilon_greedy": lambda: LearningPolicy.EpsilonGreedy(epsilon=options["epsilon"]),
            # A search is a success if it has a click: the policy takes rewards of 0 and 1.
            "thompson_sampling": lambda: LearningPolicy.ThompsonSampling(lambda _arm, clicks: clicks > 0),
            "linucb": lambda: LearningPolicy.LinUCB(alpha=options["alpha"], l2_lambda=1.0),
        }
        self._bandit = MAB(list(range(len(arms))), names[options["policy"]](), seed=options["seed"])
        self._is_contextual = options["policy"] == "linucb"
        self._random = np.random.default_rng(options["seed"])
        self._arms = len(arms)
        # Decisions, clicks and contexts of each round.
        self._seen: deque[tuple[Any, Any, Any]] = deque(maxlen=max(1, options["window"] // options["round_searches"]))

    def learn(self, arms: list[int], clicks: list[int], last: dict[str, Any]) -> None:
        """Fit the policy to the last searches."""
        self._seen.append((np.array(arms), np.array(clicks, float), np.array(last["contexts"])))
        decisions, rewards, contexts = (np.concatenate(values) for values in zip(*self._seen, strict=True))
        self._bandit.fit(decisions, rewards, contexts if self._is_contextual else None)

    def choose(self, given: dict[str, Any]) -> list[int]:
        """Return the arm of each search; at random before the first results."""
        if not self._seen:
            return [int(arm) for arm in self._random.integers(0, self._arms, len(given["users"]))]
        # For a single context, predict returns no list.
        contexts = np.array([*given["contexts"], given["contexts"][0]])
        return [int(arm) for arm in self._bandit.predict(contexts)][:-1]


class VowpalWabbit:
    """Contextual bandit of Vowpal Wabbit with an action for each arm, described by its weights and its number."""

    def __init__(self, arms: list[list[float]], options: dict[str, Any]) -> None:
        fixed = f"--cb_explore_adf --quiet --random_seed {options['seed']} -q UW -q UA"
        self._model = vowpalwabbit.Workspace(f"{fixed} {options['arguments']}")
        self._results = options["results"]
        self._random = np.random.default_rng(options["seed"])
        self._actions = [
            "|W " + " ".join(f"w{number}:{weight}" for number, weight in enumerate(arm)) + f" |A arm{index}"
            for index, arm in enumerate(arms)
        ]
        self._probabilities: list[float] = []

    def learn(self, arms: list[int], clicks: list[int], last: dict[str, Any]) -> None:
        """Learn each search of a round; its cost is the share of results without a click: --squarecb needs 0 to 1."""
        for index, (arm, click) in enumerate(zip(arms, clicks, strict=True)):
            examples = self._examples(last["users"][index], last["contexts"][index])
            examples[1 + arm] = f"0:{1 - click / self._results}:{self._probabilities[index]} {examples[1 + arm]}"
            self._model.learn(examples)

    def choose(self, given: dict[str, Any]) -> list[int]:
        """Draw the arm of each search from the model's probabilities."""
        chosen, self._probabilities = [], []
        for user, context in zip(given["users"], given["contexts"], strict=True):
            shares = np.array(self._model.predict(self._examples(user, context)))
            arm = int(self._random.choice(len(shares), p=shares / shares.sum()))
            chosen.append(arm)
            self._probabilities.append(float(shares[arm]))
        return chosen

    def _examples(self, user: int, context: list[float]) -> list[str]:
        rates = " ".join(f"r{number}:{value:.4f}" for number, value in enumerate(context))
        return [f"shared |U user{user} {rates}", *self._actions]


def main() -> None:
    """Answer each round."""
    options = json.loads(sys.stdin.readline())
    bandit = (VowpalWabbit if options["policy"] == "vowpalwabbit" else Mabwiser)(options["arms"], options)
    last: dict[str, Any] = {}
    chosen: list[int] = []
    for line in sys.stdin:
        given = json.loads(line)
        clicks = given.pop("clicks")
        if clicks:
            bandit.learn(chosen, clicks, last)
        chosen, last = bandit.choose(given), given
        print(json.dumps(chosen), flush=True)


if __name__ == "__main__":
    main()
