"""Behaviour of simulated people: examination, attraction, events after a click, and the next search of a session.

Clicks follow the position-based model (Craswell et al., 2008, "An experimental comparison of click position-bias
models"): a result is clicked if it is examined, which depends on position and device, and attractive, which depends on
grade, taste and retriever; both are independent for each result. The numbers are round, not measured.
"""

from collections.abc import Mapping
from typing import NamedTuple

from schemas.interaction import InteractionType

TEXT_URI = "tally://text@v1/embedding"
IMAGE_URI = "tally://image@v1/embedding"


class Device(NamedTuple):
    """Device: its share of people, the number of results that it shows, and its exponent of examination."""

    name: str
    share: float
    depth: int
    exponent: float

    def examination(self, position: int) -> float:
        """Return the probability that a result at `position`, from 0, is examined: (position + 1)^-exponent."""
        return float((position + 1) ** -self.exponent)


class Taste(NamedTuple):
    """Taste: its share of people, and the factors of attraction for each `feature_uri` (others: 1)."""

    name: str
    share: float
    factors: Mapping[str | None, float]

    def factor(self, feature_uri: str | None) -> float:
        """Return the factor of attraction for results of this `feature_uri`."""
        return self.factors.get(feature_uri, 1.0)


DEVICES = (Device("ios", 0.3, 6, 1.1), Device("android", 0.4, 8, 0.9), Device("desktop", 0.3, 12, 0.6))
MAX_DEPTH_SHOWN = max(device.depth for device in DEVICES)

TASTES = (
    Taste("text", 0.3, {TEXT_URI: 1.4, IMAGE_URI: 0.6}),
    Taste("image", 0.3, {TEXT_URI: 0.6, IMAGE_URI: 1.4}),
    Taste("neutral", 0.4, {}),
)

ATTRACTION = (0.01, 0.04, 0.1, 0.2, 0.35)
"""Probability that an examined result of grade 0 to 4 attracts a click, before factors of taste and retriever."""
SATISFACTION = (0.05, 0.2, 0.45, 0.7, 0.9)
"""Satisfaction, from 0 to 1, with a clicked result of grade 0 to 4."""

SKIPPED = 0.03
"""Probability of a `skip` for a result that was examined and did not attract."""
FILTER_TOGGLED = 0.1
"""Probability of a `filter_toggle` in an execution with results."""

MAX_EXECUTIONS = 4
"""Maximum executions of a session."""
CONTINUES_AFTER_ZERO = 0.7
CONTINUES_WITHOUT_CLICK = 0.35
"""Probability of another query of the same intent after results without a click."""
CONTINUES_AFTER_CLICK = 0.2
"""Probability of a new query, of any intent, after at least one click."""
REFINEMENT_RECORDED = 0.8
"""Share of further queries of the same intent for which the page sends a `query_refinement`."""

PURCHASE_AFTER_CART = 0.4
PURCHASE_WITHOUT_EXECUTION = 0.1
"""Share of purchases that the checkout page sends without `execution_id`: only user and session are known there."""

FIRST_CLICK_MS, PER_POSITION_MS, MEAN_DELAY_MS = 1_000, 600, 4_000
"""A click on position p comes FIRST_CLICK_MS + p * PER_POSITION_MS + Exp(MEAN_DELAY_MS) after the impressions."""


def click_delay_ms(position: int) -> int:
    """Return the shortest time in ms from the impressions to a click on `position`."""
    return FIRST_CLICK_MS + position * PER_POSITION_MS


def attraction(grade: int, taste: Taste, feature_uri: str | None, lift: float) -> float:
    """Return the probability, at most 1, that an examined result attracts a click."""
    return min(1.0, ATTRACTION[grade] * taste.factor(feature_uri) * lift)


def _after_click(satisfied: float) -> tuple[tuple[InteractionType, float], ...]:
    return (
        ("view", 0.9),
        ("dwell", 0.6),
        ("long_view", 0.4 * satisfied),
        ("return_to_results", 0.6 * (1 - satisfied)),
        ("add_to_cart", 0.22 * satisfied),
        ("wishlist", 0.08 * satisfied),
        ("bookmark", 0.06 * satisfied),
        ("share", 0.03 * satisfied),
        ("positive_feedback", 0.05 * satisfied),
        ("negative_feedback", 0.05 * (1 - satisfied)),
    )


AFTER_CLICK = tuple(map(_after_click, SATISFACTION))
"""For each grade, the events that may follow a click, with their probabilities; they are independent."""
