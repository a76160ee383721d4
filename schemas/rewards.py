"""Rewards: the number that an interaction is worth, by its types. Computed when events are read, never stored."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast, get_args

from schemas.interaction import InteractionType

DEFAULT_REWARDS: Mapping[InteractionType, float] = {
    "click": 1.0,
    "long_view": 1.0,
    "purchase": 3.0,
    "add_to_cart": 2.0,
    "bookmark": 1.5,
    "share": 1.5,
    "positive_feedback": 2.0,
    "negative_feedback": -2.0,
    "skip": -0.5,
    "return_to_results": -0.5,
}
"""Reward of each type. Types that are absent have none."""

MAX_REWARD = 5.0
"""Largest absolute reward of one interaction."""


MICROS = 1_000_000
"""Rewards are rounded to millionths, so that their sums do not depend on the order of the events."""
_LARGEST = 1e11
"""Largest reward of a type, beyond every cap: the sum over the types of an event is a 64-bit number of millionths."""

GRADE_THRESHOLDS = (1.5, 2.0, 3.0)
"""Lowest rewards of grades 2, 3 and 4. Grade 1 is any smaller reward above 0, grade 0 none. With the default rewards
grade 1 is a click or a long view, 2 a bookmark or a share, 3 a cart or positive feedback, 4 a purchase."""
HIGHEST_GRADE = 4


class RewardMap(NamedTuple):
    """Reward of each type, and the largest absolute reward of one interaction.

    A type that is absent has no reward. An interaction has the sum of the rewards of its types.
    """

    rewards: Mapping[InteractionType, float] = DEFAULT_REWARDS
    most: float = MAX_REWARD

    def in_micros(self) -> "MicroRewards":
        """Return the same in whole millionths, whose sums are exact."""
        values = {name: round(max(-_LARGEST, min(_LARGEST, value)) * MICROS) for name, value in self.rewards.items()}
        return MicroRewards(values, round(self.most * MICROS))


class MicroRewards(NamedTuple):
    """Rewards in millionths: of each type, and the largest absolute reward of one interaction."""

    rewards: Mapping[InteractionType, int]
    most: int


def parse_rewards(text: str, most: float = MAX_REWARD) -> RewardMap:
    """Parse a map that replaces the default one: `click=1,purchase=3`, or the same as a JSON object.

    Raises ValueError for a type that is named twice, and for those of `rewards_of`.
    """
    return rewards_of(_json_object(text) if text.lstrip().startswith("{") else _pairs(text), most)


def rewards_of(found: Mapping[str, object], most: float) -> RewardMap:
    """Return the map of rewards by the names of types.

    Raises ValueError for an unknown type, a reward that is not a finite number, and a cap outside 0.1 to 100.
    """
    if not 0.1 <= most <= 100:  # noqa: PLR2004  (range of the published service)
        raise ValueError("the largest reward of an interaction must be from 0.1 to 100")
    rewards = dict[InteractionType, float]()
    for name, value in found.items():
        if name not in get_args(InteractionType):
            raise ValueError(f"{name[:40]!r} is not an interaction type")
        rewards[cast(InteractionType, name)] = _number(name, value)
    return RewardMap(rewards, most)


def _number(name: str, value: object) -> float:
    if not isinstance(value, float):
        raise ValueError(f"the reward of {name} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"the reward of {name} is not a finite number")
    return value


def _json_object(text: str) -> Mapping[str, object]:
    try:
        found = json.loads(text, parse_int=float, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("the reward map is nested too deep: it is one object of numbers") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the reward map is not JSON: {error}") from None
    return cast(Mapping[str, object], found)


def _pairs(text: str) -> Mapping[str, object]:
    found = list[tuple[str, object]]()
    for pair in text.split(","):
        name, _equals, number = (part.strip() for part in pair.partition("="))
        try:
            found.append((name, float(number)))
        except ValueError:
            raise ValueError(f"{pair.strip()[:60]!r} is not TYPE=NUMBER") from None
    return _without_repeats(found)


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> Mapping[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the reward of {repeated[:40]!r} is named twice")
    return found
