"""Judgments: how good each document is for each query, estimated from the stored events."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from learning.estimators.curve import CLIP, PropensityCurve
from learning.estimators.judging import (
    PRIOR_STRENGTH,
    Floats,
    ItemEstimates,
    click_through,
    clicks_over_expected,
    graded,
    grades_of,
    propensity_weighted,
)
from learning.judgment_counts import ItemCounts, read_item_counts
from learning.propensities import estimate
from learning.scope import LearningScope, Refusal, ScopeError
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.rewards import GRADE_THRESHOLDS, HIGHEST_GRADE, RewardMap

JudgmentMethod = Literal["ctr", "coec", "ips", "graded"]
CurvesOf = Callable[[Settings, ClickHouse, LearningScope], Awaitable[Sequence[PropensityCurve]]]
"""Function that returns the propensities for a scope. It raises Refusal where the events cannot say."""


class JudgmentRequest(NamedTuple):
    """Method and its parameters. Methods ignore the parameters of others."""

    method: JudgmentMethod
    min_impressions: int = 1
    """Fewest impressions of an item that is listed. Items with fewer still count in the means of positions."""
    prior_strength: float = PRIOR_STRENGTH
    """Weight of the prior of ctr, in impressions."""
    clip: float = CLIP
    """Largest weight of a click of ips, at least 1."""
    rewards: RewardMap = RewardMap()
    """Rewards by type, for graded."""
    thresholds: tuple[float, ...] = GRADE_THRESHOLDS
    """Lowest rewards of grades 2, 3 and 4 of graded, ascending."""

    def checked(self) -> "JudgmentRequest":
        """Return the request. Raises ScopeError for thresholds that are not three ascending numbers above 0."""
        ascending = sorted({each for each in self.thresholds if 0 < each < float("inf")})
        if len(ascending) != HIGHEST_GRADE - 1 or tuple(ascending) != self.thresholds:
            raise ScopeError("grades", "write three numbers above 0, each larger than the one before, such as 1.5,2,3")
        return self


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Parse the lowest rewards of grades 2, 3 and 4, such as `1.5,2,3`. Raises ScopeError."""
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise ScopeError("grades", f"{text[:60]!r} is not a list of numbers such as 1.5,2,3") from None


class Judgment(NamedTuple):
    """Judgment of a document for a query."""

    query: str
    document: str
    value: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None: the method has none."""
    grade: int
    """Whole grade from 0 to 4; of a rate: 4 times the value over the highest value of the query, rounded."""
    impressions: int
    clicks: int
    effective_n: float


class Judgments(NamedTuple):
    """Judgments of a scope, in order of query, value (highest first) and document."""

    scope: LearningScope
    method: JudgmentMethod
    notes: Sequence[str]
    """Remarks about what was left out."""
    counts: ItemCounts
    estimates: ItemEstimates
    grades: Sequence[int]
    """Grade of each item, in order of `counts`."""
    order: Sequence[int]
    """Numbers of the listed items."""

    def __len__(self) -> int:
        return len(self.order)

    def of_query(self, text: str) -> "Judgments":
        """Return the judgments for a normalised query alone. The values are the same: means are of all queries."""
        query = self.counts.query
        order = [item for item in self.order if self.counts.queries[query[item]] == text]
        notes = self.notes if order else [*self.notes, f"no item of the query {text[:60]!r} is judged"]
        return Judgments(self.scope, self.method, notes, self.counts, self.estimates, self.grades, order)

    def rows(self, most: int | None = None) -> Iterator[Judgment]:
        """Yield the judgments, at most the first `most`."""
        counts, found = self.counts, self.estimates
        for item in self.order[:most]:
            yield Judgment(
                counts.queries[counts.query[item]],
                counts.documents[item],
                float(found.value[item]),
                None if found.low is None else float(found.low[item]),
                None if found.high is None else float(found.high[item]),
                int(self.grades[item]),
                int(found.impressions[item]),
                int(found.clicks[item]),
                float(found.effective_n[item]),
            )


async def judge(
    settings: Settings,
    database: ClickHouse,
    scope: LearningScope,
    request: JudgmentRequest,
    curves_of: CurvesOf = estimate,
) -> Judgments:
    """Return the judgments of the items that were shown. `curves_of` is called for the method ips only.

    Raises Refusal where the events have no answer, or more counts than one estimate may hold; RangeTooLarge;
    Unavailable.
    """
    curves = await curves_of(settings, database, scope) if request.method == "ips" else ()
    counts = await read_item_counts(settings, database, scope, request.rewards)
    return await asyncio.to_thread(judgments_of, scope, request, counts, curves)


def judgments_of(
    scope: LearningScope, request: JudgmentRequest, counts: ItemCounts, curves: Sequence[PropensityCurve] = ()
) -> Judgments:
    """Return the judgments that counts give. Raises Refusal if no item has one."""
    found, left_out = _estimated(request, counts, curves)
    is_listed = found.is_known & (found.impressions >= request.min_impressions)
    unlisted = int((found.is_known & ~is_listed).sum())
    notes = [
        *_counted(counts.without_query, "impression", "of executions without a query text"),
        *left_out,
        *_counted(unlisted, "item", f"with fewer than {request.min_impressions:,} impressions"),
    ]
    if not is_listed.any():
        raise Refusal("; ".join(["no item can be judged", *notes]))
    listed = np.flatnonzero(is_listed)
    value, query = found.value, counts.query
    grades = value.astype(np.int64)
    if request.method != "graded":
        grades = np.zeros(len(value), np.int64)
        grades[listed] = grades_of(query[listed], value[listed])
    order = listed[np.lexsort((listed, -value[listed], query[listed]))]
    return Judgments(scope, request.method, notes, counts, found, grades.tolist(), order.tolist())


def _estimated(
    request: JudgmentRequest, counts: ItemCounts, curves: Sequence[PropensityCurve]
) -> tuple[ItemEstimates, list[str]]:
    """Return the estimates of a method, and notes about what it cannot use."""
    cells = counts.cells
    match request.method:
        case "ctr":
            return click_through(cells, request.prior_strength), []
        case "coec":
            found = clicks_over_expected(cells)
            return found, _counted(int((~found.is_known).sum()), "item", "shown only at positions without any click")
        case "graded":
            return graded(cells, counts.highest_reward, request.thresholds), []
        case "ips":
            found = propensity_weighted(cells, _propensities(counts, curves), request.clip)
            unknown = int(cells.impressions.sum() - found.impressions.sum())
            return found, _counted(unknown, "impression", "at positions without a known propensity")


def _propensities(counts: ItemCounts, curves: Sequence[PropensityCurve]) -> Floats:
    """Return the propensity of each cell, 0 where it is not known."""
    cells = counts.cells
    found = np.zeros(len(cells.item))
    known = {curve.segment: curve.values() for curve in curves}
    places, cell_place = np.unique(np.stack([cells.segment, cells.position]), axis=1, return_inverse=True)
    values = [known.get(counts.segments[segment], {}).get(position, 0.0) for segment, position in places.T.tolist()]
    if values:
        found = np.asarray(values, np.float64)[cell_place.reshape(-1)]
    return found


def _counted(number: int, noun: str, condition: str) -> list[str]:
    """Return a note about things that were left out, or none."""
    if not number:
        return []
    what = f"{number:,} {noun}{'' if number == 1 else 's'} {condition}"
    return [f"{what} {'is' if number == 1 else 'are'} left out"]
