"""Ship gate: whether a candidate ranking may replace a baseline, from metrics of both over the same queries.

The unit is the query. With d the mean of the paired differences candidate - baseline of a metric, and [low, high] its
95 % interval (Student, `learning.estimators.means`):

- The primary metric `rose` if low > 0, `regressed` if high < 0, else it is `inconclusive`.
- A guard metric `held` if low >= -tolerance, that is, if a drop larger than the tolerance is ruled out (a test of
  non-inferiority: Schuirmann, A Comparison of the Two One-Sided Tests Procedure, 1987). It `regressed` if a drop larger
  than the tolerance is shown: one-sided p-value at most 0.025 after Holm's correction for the number of guards (Holm, A
  Simple Sequentially Rejective Multiple Test Procedure, 1979). Else it is `inconclusive`: the queries are too few to
  say, and an inconclusive guard blocks as a regressed one does.
- The gate passes if the primary metric rose and all guards held. As each of these must be shown at its own level, a
  candidate that does not deserve it passes in at most 2.5 % of cases, with any number of guards (intersection-union
  test: Berger, Multiparameter Hypothesis Testing and Acceptance Sampling, 1982).

Values are from 0 to 1, and differences of at most `NOISE` are rounding errors: a drop that equals the tolerance holds,
whatever its last bit.

It lies where queries are not independent, such as many spellings of one query, where the same queries were used to tune
the candidate, and where judgments come from clicks on the baseline, which favour it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from learning.estimators.means import LEVEL, MeanEstimate, mean_of

MIN_QUERIES = 10
"""Fewest queries with a verdict. With 10 equal differences a sign test, which assumes nothing, has p = 0.002."""
DEFAULT_TOLERANCE = 0.01
"""Default drop of a guard that is accepted. With 0, every guard must be shown not to fall at all."""

GateState = Literal["rose", "held", "regressed", "inconclusive"]
NOISE = 1e-12
"""Differences up to this one are rounding errors of values from 0 to 1."""
_ONE_SIDED = (1 - LEVEL) / 2


class GateMetric(NamedTuple):
    """Comparison of one metric. Means are over the queries."""

    baseline: float
    candidate: float
    difference: MeanEstimate
    """Candidate minus baseline, paired."""
    state: GateState
    queries_needed: int | None
    """Queries that would decide an inconclusive metric if the difference and its spread remained; None: unknown."""


class GateResult(NamedTuple):
    """Result of a gate, with a comparison of each metric by name, the primary one first."""

    passed: bool
    reason: str
    primary: str
    tolerance: float
    queries: int
    metrics: Mapping[str, GateMetric]

    def in_state(self, state: GateState) -> list[str]:
        """Return the names of the metrics in a state."""
        return [name for name, metric in self.metrics.items() if metric.state == state]


def gate(
    baseline: Mapping[str, Sequence[float]],
    candidate: Mapping[str, Sequence[float]],
    primary: str,
    guards: Sequence[str] = (),
    tolerance: float = DEFAULT_TOLERANCE,
) -> GateResult:
    """Compare values of metrics by name, one value for each query in the same order. See the module for the rule.

    Raises ValueError for a negative tolerance, and without queries.
    """
    if not 0 <= tolerance <= 1:
        raise ValueError("the tolerance must be from 0 to 1")
    names = [primary, *(name for name in dict.fromkeys(guards) if name != primary)]
    means = {name: (mean_of(baseline[name]).mean, mean_of(candidate[name]).mean) for name in names}
    differences = {name: _paired(baseline[name], candidate[name]) for name in names}
    states = {primary: _primary_state(differences[primary])}
    states |= _guard_states({name: differences[name] for name in names[1:]}, tolerance)
    metrics = {
        name: GateMetric(
            *means[name],
            differences[name],
            states[name],
            _needed(differences[name], 0.0 if name == primary else -tolerance)
            if states[name] == "inconclusive"
            else None,
        )
        for name in names
    }
    queries = differences[primary].queries
    passed = states[primary] == "rose" and all(state == "held" for state in list(states.values())[1:])
    found = GateResult(passed, "", primary, tolerance, queries, metrics)
    return found._replace(reason=_reason(found))


def _paired(baseline: Sequence[float], candidate: Sequence[float]) -> MeanEstimate:
    return mean_of([after - before for before, after in zip(baseline, candidate, strict=True)])


def _primary_state(difference: MeanEstimate) -> GateState:
    if difference.queries < MIN_QUERIES or difference.low is None or difference.high is None:
        return "inconclusive"
    return "rose" if difference.low > NOISE else "regressed" if difference.high < -NOISE else "inconclusive"


def _guard_states(differences: Mapping[str, MeanEstimate], tolerance: float) -> dict[str, GateState]:
    states = dict[str, GateState]()
    bound = -tolerance - NOISE
    for name, difference in differences.items():
        is_shown = difference.queries >= MIN_QUERIES and difference.low is not None and difference.low >= bound
        states[name] = "held" if is_shown else "inconclusive"
    by_p_value = sorted((difference.share_below(bound), name) for name, difference in differences.items())
    for rank, (p_value, name) in enumerate(by_p_value):
        if p_value * (len(by_p_value) - rank) > _ONE_SIDED or differences[name].queries < MIN_QUERIES:
            break
        states[name] = "regressed"
    return states


def _needed(difference: MeanEstimate, bound: float) -> int | None:
    """Return the number of queries with which the interval of this difference would be above `bound`."""
    distance = difference.mean - bound
    if distance <= NOISE or difference.high is None:
        return None
    half = difference.high - difference.mean
    return max(MIN_QUERIES, math.ceil(difference.queries * (half / distance) ** 2))


def _reason(found: GateResult) -> str:
    """Return the reason of a verdict as one sentence."""
    if found.queries < MIN_QUERIES:
        return f"too few queries to say: {found.queries}, at least {MIN_QUERIES} are needed"
    primary = found.metrics[found.primary]
    regressed = found.in_state("regressed")
    undecided = [name for name in found.in_state("inconclusive") if name != found.primary]
    if regressed:
        return f"regressed: {', '.join(regressed)}"
    parts = []
    if primary.state != "rose":
        parts.append(f"{found.primary} did not rise: its interval contains 0")
    if undecided:
        parts.append(f"too few queries to rule out a drop of more than {found.tolerance:g}: {', '.join(undecided)}")
    if parts:
        return "; ".join(parts)
    guards = f", and {', '.join(list(found.metrics)[1:])} held" if len(found.metrics) > 1 else ""
    return f"{found.primary} rose{guards}"
