"""Examination propensities by position."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

PropensityMethod = Literal["em", "harvesting", "randomised"]
DEFAULT_METHOD: PropensityMethod = "harvesting"
"""Unlike `em`, without bias where items have few impressions; nearly as precise where they have many."""
CLIP = 10.0
"""Default largest weight 1 / propensity. With a propensity of 1 / (position + 1) the first ten positions keep
their full weights, and no click counts as more than ten."""


class PropensityPoint(NamedTuple):
    """Examination propensity of one position, with the counts that it was estimated from."""

    position: int
    """0-based."""
    impressions: int
    clicks: int
    items: int
    """Pairs of query and document shown at this position and at another one."""
    value: float | None
    """Probability of examination divided by that of the reference position; None if the events cannot say."""
    low: float | None
    high: float | None
    """Ends of the 95 % bootstrap interval; None where the value is, and at the reference, which is 1 by definition."""
    reason: str
    """Reason of a value that is None, else empty."""


class PropensityCurve(NamedTuple):
    """Propensities of one segment of a retriever's results, by position."""

    segment: str
    method: PropensityMethod
    reference: int
    """Position whose propensity is 1: the lowest one that was shown."""
    points: tuple[PropensityPoint, ...]
    omitted: int = 0
    """Impressions left out: of executions without a query text, and at more positions than a curve has."""

    def values(self) -> Mapping[int, float]:
        """Return the known propensities by position."""
        return {point.position: point.value for point in self.points if point.value is not None}
