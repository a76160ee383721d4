"""Rates of a topic: records appended, and records settled, a second, from observed offsets."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

LONGEST_S = 60.0
"""Longest time over which a rate is known."""
SHORTEST_S = 1.0
"""Shortest time between two observations that give a rate."""


class FlowRate(NamedTuple):
    """Records a second."""

    appended: float
    settled: float


class _ObservedOffsets(NamedTuple):
    at_s: float
    end: int
    committed: int


class FlowRates:
    """Observed offsets of the last LONGEST_S, summed over the partitions."""

    def __init__(self) -> None:
        self._observed: deque[_ObservedOffsets] = deque()

    def note(self, at_s: float, ends: Mapping[int, int], committed: Mapping[int, int]) -> None:
        """Record the log's ends and the committed offsets at a monotonic time in seconds."""
        settled = sum(committed.get(partition, 0) for partition in ends)
        self._observed.append(_ObservedOffsets(at_s, sum(ends.values()), settled))
        while at_s - self._observed[0].at_s > LONGEST_S:
            self._observed.popleft()

    def over(self, seconds: float) -> FlowRate | None:
        """Return the rate over the last `seconds`, or over a shorter time after the start; None while unknown."""
        if not self._observed:
            return None
        last = self._observed[-1]
        first = next(each for each in self._observed if last.at_s - each.at_s <= seconds)
        passed_s = last.at_s - first.at_s
        if passed_s < SHORTEST_S:
            return None
        # A topic that was deleted and created again begins at 0.
        appended, settled = max(0, last.end - first.end), max(0, last.committed - first.committed)
        return FlowRate(appended / passed_s, settled / passed_s)
