"""Rewards: the number that an interaction is worth, by its types. Computed when events are read, never stored."""

from collections.abc import Mapping

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
