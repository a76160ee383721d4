"""Off-policy estimates: the mean reward of a result under another policy, from the propensities that were logged.

Units: r is the reward of a shown result, p its logged propensity, q the probability with which the other policy shows
this document for this query at this position, w = q / p its weight. The value of a policy is the mean reward of a
result, for the queries and positions of the log.

- IPS (Horvitz & Thompson, 1952, "A generalization of sampling without replacement from a finite universe"; for logged
  rankings Bottou et al., 2013, "Counterfactual reasoning and learning systems"): mean of w r. Unbiased if the
  propensities are right and p > 0 wherever q > 0.
- SNIPS (Swaminathan & Joachims, 2015, "The self-normalized estimator for counterfactual learning"): sum of w r / sum
  of w. Bias of order 1 / n, mostly a smaller variance.
- DR (Dudik et al., 2011, "Doubly robust policy evaluation and learning"): mean of m(q) + w (r - m), m being a model's
  expected reward of the document, and m(q) its expectation under the policy. Unbiased where the propensities or the
  model are right.

All three take it that the reward of a result depends on query, document and position, not on the other results. They
lie where propensities are wrong, where the policy shows what the log never showed (the mean weight, which is 1
otherwise, tells), and where few results have most of the weight (the effective sample size tells; Kong, 1992).

The difference of IPS and the mean reward of the log is the mean of (w - 1) r. Both are of the same rows, so its
interval is not that of two independent means.

Results of one execution are dependent: standard errors are those of sums over executions (Liang & Zeger, 1986), of the
ratio by its influence function, and intervals are normal. With few rewarded executions they are too short.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from learning.scope import Refusal

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
OffPolicyEstimator = Literal["ips", "snips", "dr"]

MIN_ESS = 100.0
"""Default of the smallest effective sample size."""
MIN_PROPENSITY = 1e-12
"""Smallest propensity that is taken for a probability."""
MEAN_TOLERANCE = 0.01
"""Largest distance of the mean weight from 1 that rounded probabilities explain."""
WEIGHT_TOLERANCE = 1e-9
"""Largest distance of a weight from 1 that rounding explains."""
FEW_REWARDED = 10
"""Number of rewarded executions below which a normal interval is doubtful."""
_Z_95, _Z_999 = 1.959963984540054, 3.2905267314919255


class LoggedResults(NamedTuple):
    """Shown results: arrays with one entry each."""

    reward: Floats
    propensity: Floats
    """Logged propensity, from MIN_PROPENSITY to 1; NaN if it was not logged."""
    probability: Floats
    """Probability under the other policy, from 0 to 1."""
    execution: Integers
    """Number of the execution; results with the same number are dependent."""
    expected: Floats | None = None
    """Expected reward of the shown document by a model; needed by DR."""
    expected_of_policy: Floats | None = None
    """Expected reward by the same model of the document that the policy would show; needed by DR."""


@dataclass(frozen=True)
class PolicyValue:
    """Mean reward of a result, with its 95 % interval."""

    estimator: str
    value: float
    low: float
    high: float
    standard_error: float
    clip_bias: float | None = None
    """Estimated bias of clipping: the value minus that without clipping. None: not clipped."""


@dataclass(frozen=True)
class WeightSummary:
    """Weights of the results; those that were clipped with their clipped value, except in the mean."""

    results: int
    executions: int
    rewarded_executions: int
    """Executions with a reward other than 0 on a result that the policy would show."""
    ess: float
    """Effective sample size (sum of w)^2 / sum of w^2, in results."""
    ess_executions: float
    """The same with the sum of an execution's weights for w, in executions: never larger. The minimum holds for it."""
    mean: float
    """Mean weight without clipping. 1 is expected."""
    mean_low: float
    mean_high: float
    largest: float
    top_share: float
    """Share of the total weight that the largest hundredth of the weights has."""
    clipped: int
    """Number of clipped weights."""


class OffPolicyEstimates(NamedTuple):
    """Estimates of a policy's value beside the mean reward of the log."""

    logged: PolicyValue
    estimates: tuple[PolicyValue, ...]
    difference: PolicyValue
    """IPS minus the mean reward of the log, from the same results."""
    weights: WeightSummary
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def estimate_value(
    results: LoggedResults,
    estimators: tuple[OffPolicyEstimator, ...] = ("ips", "snips"),
    *,
    min_ess: float = MIN_ESS,
    max_weight: float | None = None,
) -> OffPolicyEstimates:
    """Estimate the mean reward of a result under the policy.

    `max_weight`: larger weights are clipped to it. Clipping trades variance for a bias, which is towards 0 for IPS and
    rewards of one sign. Raises Refusal where the log cannot answer, and says why; ValueError for DR without a model.
    """
    _check(results)
    raw = results.probability / results.propensity
    weight = raw if max_weight is None else np.minimum(raw, max_weight)
    cluster = np.unique(results.execution, return_inverse=True)[1]
    summary = _summary(results, raw, weight, cluster)
    _check_ess(summary, min_ess)
    warnings = [*_check_mean(raw, cluster, summary), *_check_rewards(results, weight, summary)]
    if summary.clipped and (ess := effective_size(np.bincount(cluster, raw).astype(np.float64))) < min_ess:
        warnings.append(
            f"without clipping the effective sample size is {ess:,.0f}: the log hardly shows how large the bias is"
        )
    estimates = []
    for name in dict.fromkeys(estimators):
        found = _estimate(name, results, weight, cluster)
        if max_weight is not None:
            unclipped = _estimate(name, results, raw, cluster)
            found = replace(found, clip_bias=found.value - unclipped.value)
        estimates.append(found)
    ones = np.ones(len(cluster))
    logged = mean_over_groups("logged", results.reward, ones, cluster)
    difference = mean_over_groups("difference", (weight - 1) * results.reward, ones, cluster)
    if max_weight is not None:
        of_raw = mean_over_groups("difference", (raw - 1) * results.reward, ones, cluster)
        difference = replace(difference, clip_bias=difference.value - of_raw.value)
    is_logged_policy = bool((np.abs(raw - 1) <= WEIGHT_TOLERANCE).all())
    notes = ("the log shows documents as this policy does already",) * is_logged_policy
    return OffPolicyEstimates(logged, tuple(estimates), difference, summary, tuple(warnings), notes)


def _estimate(name: OffPolicyEstimator, results: LoggedResults, weight: Floats, cluster: Integers) -> PolicyValue:
    ones = np.ones(len(weight))
    match name:
        case "ips":
            return mean_over_groups(name, weight * results.reward, ones, cluster)
        case "snips":
            return mean_over_groups(name, weight * results.reward, weight, cluster)
        case "dr":
            if results.expected is None or results.expected_of_policy is None:
                raise ValueError("DR needs the expected rewards of a model")
            corrected = results.expected_of_policy + weight * (results.reward - results.expected)
            return mean_over_groups(name, corrected, ones, cluster)


def mean_over_groups(name: str, amount: Floats, size: Floats, cluster: Integers, z: float = _Z_95) -> PolicyValue:
    """Return sum(amount) / sum(size), with the normal interval of `z` standard errors.

    `cluster`: number of the group of each entry, from 0 without gaps; entries of one group are dependent. The influence
    function of a group is sum(amount) - value * sum(size).
    """
    by_amount, by_size = np.bincount(cluster, amount), np.bincount(cluster, size)
    total = float(by_size.sum())
    value = float(by_amount.sum()) / total
    count = len(by_size)
    error = float(np.sqrt(count / (count - 1) * np.square(by_amount - value * by_size).sum())) / total
    return PolicyValue(name, value, value - z * error, value + z * error, error)


def _check(results: LoggedResults) -> None:
    count = len(results.reward)
    if not count:
        raise Refusal("there are no results to estimate from")
    if missing := int(np.isnan(results.propensity).sum()):
        raise Refusal(
            f"{missing:,} of {count:,} results have no logged propensity: the probability with which the retriever "
            "showed the document at its position is needed in metadata.propensity of the impression"
        )
    wrong = (results.propensity < MIN_PROPENSITY) | (results.propensity > 1)
    if bad := int(wrong.sum()):
        example = results.propensity[wrong][0]
        raise Refusal(
            f"{bad:,} of {count:,} logged propensities are not probabilities from {MIN_PROPENSITY:g} to 1, "
            f"such as {example:g}"
        )
    if not np.isfinite(results.reward).all():
        raise Refusal("a reward is not a finite number")
    if not ((results.probability >= 0) & (results.probability <= 1)).all():
        raise Refusal("a probability of the policy is not from 0 to 1")
    if not results.probability.any():
        raise Refusal("the policy would show none of the logged results: the log has no evidence about it")
    if (results.execution == results.execution[0]).all():
        raise Refusal("all results are of one execution: an interval needs at least two")


def _summary(results: LoggedResults, raw: Floats, weight: Floats, cluster: Integers) -> WeightSummary:
    of_execution: Floats = np.bincount(cluster, weight).astype(np.float64)
    mean = mean_over_groups("mean", raw, np.ones(len(raw)), cluster)
    top = -(-len(weight) // 100)
    largest = np.sort(np.partition(weight, len(weight) - top)[-top:])
    rewarded = np.bincount(cluster, (weight > 0) & (results.reward != 0)) > 0
    return WeightSummary(
        results=len(weight),
        executions=len(of_execution),
        rewarded_executions=int(rewarded.sum()),
        ess=effective_size(weight),
        ess_executions=effective_size(of_execution),
        mean=mean.value,
        mean_low=mean.low,
        mean_high=mean.high,
        largest=float(largest[-1]),
        top_share=float(largest.sum() / weight.sum()),
        clipped=int((raw > weight).sum()),
    )


def effective_size(weight: Floats) -> float:
    """Return (sum of w)^2 / sum of w^2 (Kong, 1992). At least one weight must be above 0."""
    scaled = weight / weight.max()
    return float(np.square(scaled.sum()) / np.square(scaled).sum())


def _check_ess(summary: WeightSummary, min_ess: float) -> None:
    # Equal weights may lack a rounding error of their number.
    if summary.ess_executions < min_ess * (1 - 1e-9):
        raise Refusal(
            f"the effective sample size is {summary.ess_executions:,.0f} of {summary.executions:,} executions, and at "
            f"least {min_ess:g} is needed (TALLY_MIN_ESS): the log rarely shows what the policy would show; the "
            f"largest weight is {summary.largest:,.0f}, and the top 1 % of the results have "
            f"{summary.top_share:.0%} of the weight"
        )


def _check_mean(raw: Floats, cluster: Integers, summary: WeightSummary) -> list[str]:
    """Refuse a mean weight whose 99.9 % interval excludes 1; warn if the 95 % interval does."""
    if abs(summary.mean - 1) <= MEAN_TOLERANCE:
        return []
    cause = (
        "the policy shows results that the log never shows, or propensities are wrong"
        if summary.mean < 1
        else "propensities are too small, or the policy's probabilities too large"
    )
    wide = mean_over_groups("mean", raw, np.ones(len(raw)), cluster, _Z_999)
    if not wide.low <= 1 <= wide.high:
        raise Refusal(
            f"the mean weight is {wide.value:.3f} (99.9 % interval {wide.low:.3f} to {wide.high:.3f}) instead of 1: "
            f"{cause}"
        )
    if not summary.mean_low <= 1 <= summary.mean_high:
        low, high = summary.mean_low, summary.mean_high
        return [f"the mean weight is {summary.mean:.3f} (95 % interval {low:.3f} to {high:.3f}) instead of 1: {cause}"]
    return []


def _check_rewards(results: LoggedResults, weight: Floats, summary: WeightSummary) -> list[str]:
    """Refuse rewards from which no interval can be computed; warn of few rewarded executions."""
    shown = results.reward[weight > 0]
    if shown.min() == shown.max():
        raise Refusal(
            f"all {len(shown):,} results that the policy would show have the reward {shown[0]:g}: "
            "an interval cannot be computed"
        )
    if summary.rewarded_executions < FEW_REWARDED:
        return [f"only {summary.rewarded_executions} executions have a reward: the intervals are too short"]
    return []
