"""Reference of search analytics: the metrics computed from events by plain dictionaries, as an oracle of faster code.

Events are pairs of a time in ms since 1970 and an interaction. An event that repeats execution, feature and type of an
earlier one counts once. An execution counts if results were shown or if it had zero results.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.event_time import to_epoch_ms
from schemas.interaction import Interaction

REWARDS = {
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
REFINED_WITHIN_MS = 300_000
NDCG_DEPTH = 10

TimedEvent = tuple[int, Interaction]


def dated(events: Iterable[Interaction]) -> list[TimedEvent]:
    """Pair events that have an `occurred_at` with it."""
    return [(to_epoch_ms(event.occurred_at), event) for event in events if event.occurred_at]


@dataclass
class Observed:
    """One execution as its events show it."""

    execution_id: str
    ms: int
    """Time of its first event."""
    user_id: str | None
    session_id: str | None
    retriever_id: str | None
    device: str | None
    query: str
    shown: dict[str, int] = field(default_factory=dict)
    """Positions of the impressions, by feature."""
    clicked: dict[str, int] = field(default_factory=dict)
    """Positions of the clicks, by feature."""
    types: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Distinct features by type."""
    reward: float = 0.0
    impression_ms: int | None = None
    first_click_ms: int | None = None
    searched_again: bool = False
    """Whether the session has a later execution with another query text within REFINED_WITHIN_MS."""

    @property
    def has_results(self) -> bool:
        return bool(self.shown)

    @property
    def counts(self) -> bool:
        return self.has_results or "zero_results" in self.types

    @property
    def refined(self) -> bool:
        return "query_refinement" in self.types or (not self.clicked and self.searched_again)

    @property
    def abandoned(self) -> bool:
        return self.has_results and set(self.types) == {"impression"}

    @property
    def reciprocal_rank(self) -> float:
        return 1 / (min(self.clicked.values()) + 1) if self.clicked else 0.0

    @property
    def ndcg(self) -> float:
        """NDCG@10 of the clicks with gain 1; the ideal has all clicks at the top."""
        if not self.clicked:
            return 0.0
        gained = sum(1 / math.log2(place + 2) for place in self.clicked.values() if place < NDCG_DEPTH)
        return gained / sum(1 / math.log2(place + 2) for place in range(min(len(self.clicked), NDCG_DEPTH)))


def executions_of(events: Iterable[TimedEvent]) -> list[Observed]:
    """Group events into the executions that count, in the order of time. Events without `execution_id` are left out."""
    found: dict[str, Observed] = {}
    seen = set[tuple[str, str, str]]()
    for ms, event in sorted(events, key=lambda pair: pair[0]):
        if event.execution_id is None:
            continue
        execution = found.setdefault(event.execution_id, _first_seen(event.execution_id, ms, event))
        for kind in event.interaction_type:
            if (key := (event.execution_id, event.feature_id, kind)) not in seen:
                seen.add(key)
                _add(execution, ms, event, kind)
    counted = [each for each in found.values() if each.counts]
    _note_next_searches(counted)
    return counted


def _first_seen(execution_id: str, ms: int, event: Interaction) -> Observed:
    return Observed(
        execution_id=execution_id,
        ms=ms,
        user_id=event.user_id,
        session_id=event.session_id,
        retriever_id=event.retriever_id,
        device=(event.metadata or {}).get("device"),
        query=(event.query_snapshot or {}).get("text", ""),
    )


def _add(execution: Observed, ms: int, event: Interaction, kind: str) -> None:
    execution.types[kind] += 1
    execution.reward += REWARDS.get(kind, 0)
    if kind == "impression":
        execution.shown[event.feature_id] = event.position
        execution.impression_ms = ms if execution.impression_ms is None else execution.impression_ms
    elif kind == "click":
        execution.clicked[event.feature_id] = event.position
        execution.first_click_ms = ms if execution.first_click_ms is None else execution.first_click_ms


def _note_next_searches(executions: list[Observed]) -> None:
    by_session: dict[str, list[Observed]] = defaultdict(list)
    for execution in executions:
        if execution.session_id is not None:
            by_session[execution.session_id].append(execution)
    for session in by_session.values():
        for number, execution in enumerate(session):
            execution.searched_again = any(
                later.query != execution.query and later.ms - execution.ms <= REFINED_WITHIN_MS
                for later in session[number + 1 :]
            )


WITH_RESULTS: Mapping[str, Callable[[Observed], float]] = {
    "ctr": lambda each: bool(each.clicked),
    "mean_clicks": lambda each: len(each.clicked),
    "mrr": lambda each: each.reciprocal_rank,
    "ndcg": lambda each: each.ndcg,
    "abandonment": lambda each: each.abandoned,
    "conversion": lambda each: "purchase" in each.types,
    "carts": lambda each: "add_to_cart" in each.types,
}
"""Metrics over executions with results."""
OF_ALL: Mapping[str, Callable[[Observed], float]] = {
    "zero_result_rate": lambda each: not each.has_results,
    "refinement_rate": lambda each: each.refined,
    "reward_per_execution": lambda each: each.reward,
}
"""Metrics over all executions that count."""


class Estimate(NamedTuple):
    """Mean of a metric, its number of values (size), and its standard error with sessions as independent units."""

    mean: float
    size: int
    error: float


def estimate(values: Iterable[tuple[str | None, float]]) -> Estimate:
    """Estimate the mean of (session, value) pairs.

    It is a ratio of two sums over sessions; the error is that of the linearized ratio (Cochran, 1977, chapter 6).
    """
    sums: dict[str | None, float] = defaultdict(float)
    counts: dict[str | None, int] = defaultdict(int)
    for session, value in values:
        sums[session] += value
        counts[session] += 1
    size = sum(counts.values())
    mean = sum(sums.values()) / size
    return Estimate(mean, size, math.sqrt(sum((sums[each] - mean * counts[each]) ** 2 for each in sums)) / size)


def metrics_of(executions: Iterable[Observed]) -> dict[str, Estimate]:
    """Estimate every metric."""
    everything = list(executions)
    with_results = [each for each in everything if each.has_results]
    return {
        name: estimate((each.session_id, float(value(each))) for each in base)
        for base, metrics in ((with_results, WITH_RESULTS), (everything, OF_ALL))
        for name, value in metrics.items()
    }


def click_through_by_position(executions: Iterable[Observed]) -> dict[int, Estimate]:
    """Estimate, for each position, the share of shown results that were clicked."""
    values: dict[int, list[tuple[str | None, float]]] = defaultdict(list)
    for each in executions:
        for feature, position in each.shown.items():
            values[position].append((each.session_id, float(feature in each.clicked)))
    return {position: estimate(pairs) for position, pairs in sorted(values.items())}


def ms_to_first_click(executions: Iterable[Observed]) -> list[int]:
    """Return the times in ms from the impressions to the first click, of executions with both."""
    return [
        each.first_click_ms - each.impression_ms
        for each in executions
        if each.first_click_ms is not None and each.impression_ms is not None
    ]
