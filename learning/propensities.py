"""Examination propensities of a retriever's results, estimated from the stored events."""

import asyncio
import math
from collections.abc import Callable, Mapping

import numpy as np

from learning.counts import BUCKETS, ClickCounts, read_click_counts
from learning.estimators import harvesting, position_model, randomised
from learning.estimators.bootstrap import REPLICATES, Bootstrapped, bootstrapped
from learning.estimators.cells import Floats, GroupedCounts, Integers, cells_of_rows, seen_elsewhere
from learning.estimators.curve import DEFAULT_METHOD, PropensityCurve, PropensityMethod, PropensityPoint
from learning.scope import LearningScope, Refusal
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings

MAX_POSITIONS = 200
"""Maximum positions of a curve. Impressions at deeper ones are only counted."""
NO_CLICKS = "no clicks"
_MODELS = {"em": position_model.log_propensities, "harvesting": harvesting.log_propensities}


async def estimate(
    settings: Settings,
    database: ClickHouse,
    scope: LearningScope,
    method: PropensityMethod = DEFAULT_METHOD,
    replicates: int = REPLICATES,
) -> list[PropensityCurve]:
    """Return the curve of each segment, in order of their texts.

    Raises Refusal when the events determine no propensity of any segment, RangeTooLarge and Unavailable.
    """
    counts = await read_counts(settings, database, scope, method)
    return await asyncio.to_thread(curves_of, counts, method, replicates)


async def read_counts(
    settings: Settings, database: ClickHouse, scope: LearningScope, method: PropensityMethod
) -> dict[str, ClickCounts]:
    """Return the counts that a method needs, of each segment. Raises Refusal, RangeTooLarge and Unavailable."""
    return await read_click_counts(settings, database, scope, with_propensity=method == "randomised")


def curves_of(
    counts: Mapping[str, ClickCounts],
    method: PropensityMethod,
    replicates: int = REPLICATES,
    tick: Callable[[], object] | None = None,
) -> list[PropensityCurve]:
    """Return the curve of each segment. `tick` is called after each replicate of each segment.

    Raises Refusal when no segment has a propensity besides the reference.
    """
    curves, refusals = list[PropensityCurve](), list[str]()
    for segment, each in counts.items():
        shown = _Shown(each)
        values, reasons = shown.estimated(method, replicates, tick)
        if refusal := shown.refusal(reasons):
            refusals.append(refusal)
            reasons = [refusal if reason == "" else reason for reason in reasons]
        curves.append(shown.curve(segment, method, values, reasons))
    if len(refusals) == len(curves):
        raise Refusal(refusals[0])
    return curves


class _Shown:
    """Results shown in one segment, as cells."""

    def __init__(self, counts: ClickCounts) -> None:
        shown = np.unique(counts.position)
        kept = np.ones(len(counts.position), np.bool_)
        if len(shown) > MAX_POSITIONS:
            kept = counts.position <= shown[MAX_POSITIONS - 1]
        self.omitted = int(counts.impressions[~kept].sum()) + counts.without_query
        self.positions: Integers = shown[:MAX_POSITIONS]
        self.cells, self._first_rows = cells_of_rows(counts.item[kept], counts.position[kept])
        self._bucket = counts.bucket[kept]
        self._rows = counts.impressions[kept].astype(np.float64), counts.clicks[kept].astype(np.float64)
        self._propensity = None if counts.propensity is None else counts.propensity[kept]
        ones = np.ones(BUCKETS)
        self.impressions, self.clicks = (self._grouped(values).weighed(ones) for values in self._rows)

    def _grouped(self, values: Floats) -> GroupedCounts:
        return GroupedCounts(self._first_rows, self._bucket, values, BUCKETS)

    def estimated(
        self, method: PropensityMethod, replicates: int, tick: Callable[[], object] | None
    ) -> tuple[Bootstrapped, list[str]]:
        """Return the propensities, and for each position the reason for which it has none, or an empty text."""
        if method == "randomised":
            return self._randomised(replicates, tick)
        model = _MODELS[method]
        impressions, clicks = map(self._grouped, self._rows)

        def values(weights: Floats, start: Floats | None) -> Floats:
            return model(self.cells, impressions.weighed(weights), clicks.weighed(weights), start)

        found = bootstrapped(values, BUCKETS, replicates, tick)
        return found, self._reasons(found, self._unconnected())

    def _randomised(self, replicates: int, tick: Callable[[], object] | None) -> tuple[Bootstrapped, list[str]]:
        if self._propensity is None:
            raise ValueError("the method randomised needs counts by logged propensity")
        weight = 1 / self._propensity
        shown, clicked = (self._grouped(values * weight) for values in self._rows)

        def values(weights: Floats, _start: Floats | None) -> Floats:
            return randomised.log_ratios(
                self.cells.per_position(shown.weighed(weights)), self.cells.per_position(clicked.weighed(weights))
            )

        ones = np.ones(BUCKETS)
        weighted, squared = shown.weighed(ones), self._grouped(self._rows[0] * weight**2).weighed(ones)
        reasons = randomised.foreign_reasons(self.cells, self.impressions, weighted, self.positions)
        effective = randomised.effective_impressions(
            self.cells.per_position(weighted), self.cells.per_position(squared)
        )
        few = [
            f"weights 1 / propensity leave an effective number of {number:,.1f} impressions; at least "
            f"{randomised.MIN_EFFECTIVE:.0f} are needed"
            if not number >= randomised.MIN_EFFECTIVE
            else ""
            for number in effective
        ]
        reasons = [first or second for first, second in zip(few, reasons, strict=True)]
        if reasons[0]:
            at = f"position {self.positions[0]}, the reference: "
            reasons = [reasons[0], *(reason or at + reasons[0] for reason in reasons[1:])]
        found = bootstrapped(values, BUCKETS, replicates, tick)
        return found, self._reasons(found, reasons)

    def _unconnected(self) -> list[str]:
        """Return the reasons for which models cannot compare positions with the reference."""
        reference = self.positions[0]
        known = position_model.determined(self.cells, self.impressions, self.clicks)
        unseen = "no document shown here was shown at another position for the same query"
        unconnected = f"too few clicks on documents shown both here and, directly or in steps, at position {reference}"
        items = self.items()
        return [
            "" if is_known else unconnected if count else unseen for is_known, count in zip(known, items, strict=True)
        ]

    def _reasons(self, found: Bootstrapped, others: list[str]) -> list[str]:
        """Return the first reason that holds for each position: no clicks, another one, no interval."""
        clicks = self.cells.per_position(self.clicks)
        reasons = []
        for index, other in enumerate(others):
            reason = other if clicks[index] else NO_CLICKS
            if not reason and not found.has_interval[index] and index:
                share = found.undetermined[index]
                reason = f"too few clicks for an interval: {share:.0%} of the resampled logs do not determine it"
            reasons.append(reason)
        return reasons

    def items(self) -> Integers:
        """Return the number of items at each position that were shown at another one, too."""
        elsewhere = seen_elsewhere(self.cells, self.impressions)
        return self.cells.per_position(elsewhere.astype(np.float64)).astype(np.int64)

    def refusal(self, reasons: list[str]) -> str:
        """Return the reason for which no position but the reference has a propensity, or an empty text."""
        if any(not reason for reason in reasons[1:]):
            return ""
        if not self.clicks.sum():
            return "no shown result was clicked in this range"
        if len(self.positions) == 1:
            return f"every result was shown at position {self.positions[0]}: there is nothing to compare"
        if not self.items().any():
            return "no document was shown at two positions for the same query: positions cannot be compared"
        return f"no position compares with position {self.positions[0]}: {self._most_frequent(reasons[1:])}"

    def _most_frequent(self, reasons: list[str]) -> str:
        return max(dict.fromkeys(reasons), key=reasons.count)

    def curve(self, segment: str, method: PropensityMethod, found: Bootstrapped, reasons: list[str]) -> PropensityCurve:
        """Return the curve of these values."""
        impressions, clicks = self.cells.per_position(self.impressions), self.cells.per_position(self.clicks)
        points = []
        for index, (position, items, reason) in enumerate(zip(self.positions, self.items(), reasons, strict=True)):
            is_known = not reason
            has_ends = is_known and index > 0
            points.append(
                PropensityPoint(
                    int(position),
                    int(impressions[index]),
                    int(clicks[index]),
                    int(items),
                    _rounded(found.values[index]) if is_known else None,
                    _rounded(found.low[index]) if has_ends else None,
                    _rounded(found.high[index]) if has_ends else None,
                    reason,
                )
            )
        return PropensityCurve(segment, method, int(self.positions[0]), tuple(points), self.omitted)


def _rounded(logarithm: float) -> float:
    """Return the value with the digits that the estimate has (`position_model.TOLERANCE`)."""
    return float(f"{math.exp(logarithm):.6g}")
