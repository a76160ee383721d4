"""Mean reward of an execution had its weights been drawn from another posterior.

Units: r is the reward of an execution, w the weight of its decision (`weight_densities`). IPS is the mean of w r, SNIPS
is sum of w r / sum of w (sources: `off_policy`). The difference is SNIPS minus the mean of r, from the same executions;
its influence function is w (r - SNIPS) / mean w - (r - mean r). Its error is smaller than that of IPS minus the mean,
which has the error of the mean weight in it.

Executions of one user are dependent: errors are those of sums over users, and intervals are normal. They are too short
for few users, or where few decisions have most of the weight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from learning.estimators.off_policy import (
    FEW_REWARDED,
    MEAN_TOLERANCE,
    Floats,
    PolicyValue,
    effective_size,
    mean_over_groups,
)
from learning.scope import Refusal

LEVEL = 0.95
FEW_USERS = 30
"""Number of users below which a normal interval is doubtful."""
_LARGEST_LOG = 700.0
_Z_999 = 3.2905267314919255


@dataclass(frozen=True)
class DecisionWeights:
    """Weights of the decisions."""

    executions: int
    users: int
    """Users, else sessions, else executions: the groups that are taken as independent."""
    rewarded_executions: int
    ess: float
    """Effective sample size (sum of w)^2 / sum of w^2, in executions."""
    mean: float
    """Mean weight. 1 is expected."""
    mean_low: float
    mean_high: float
    largest: float


class DecisionEstimates(NamedTuple):
    """Mean reward of an execution as logged, and as expected under the other posterior."""

    logged: PolicyValue
    estimates: tuple[PolicyValue, ...]
    """IPS and SNIPS."""
    difference: PolicyValue
    """SNIPS minus logged."""
    weights: DecisionWeights
    warnings: tuple[str, ...]

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the difference (normal). 1 without an error."""
        if self.difference.standard_error == 0:
            return 1.0
        return float(2 * ndtr(-abs(self.difference.value) / self.difference.standard_error))


def estimate_decisions(
    reward: Floats,
    log_weight: Floats,
    user: npt.NDArray[np.int64],
    min_ess: float,
    level: float = LEVEL,
) -> DecisionEstimates:
    """Estimate the mean reward of an execution. Arrays have one entry for each execution.

    `user`: number of the user. `level`: of the intervals. Raises Refusal where the log cannot answer.
    """
    group = np.unique(user, return_inverse=True)[1]
    users = int(group.max()) + 1 if len(group) else 0
    if users < 2:  # noqa: PLR2004  (a variance needs two)
        raise Refusal(f"the decisions are of {users} users, and an interval needs at least two: choose a longer range")
    _check_ess(log_weight, min_ess)
    weight = np.exp(np.minimum(log_weight, _LARGEST_LOG))
    if (reward == reward[0]).all():
        raise Refusal(
            f"all {len(reward):,} executions have the reward {reward[0]:g}: an interval cannot be computed; choose a "
            "longer range, or measure by rewards of events that occur"
        )
    z, ones = float(ndtri((1 + level) / 2)), np.ones(len(reward))
    logged = mean_over_groups("logged", reward, ones, group, z)
    ips = mean_over_groups("ips", weight * reward, ones, group, z)
    snips = mean_over_groups("snips", weight * reward, weight, group, z)
    influence = weight * (reward - snips.value) / weight.mean() - (reward - logged.value)
    error = mean_over_groups("difference", influence, ones, group, z).standard_error
    change = snips.value - logged.value
    difference = PolicyValue("difference", change, change - z * error, change + z * error, error)
    mean = mean_over_groups("mean", weight, ones, group)
    summary = DecisionWeights(
        executions=len(reward),
        users=users,
        rewarded_executions=int(np.count_nonzero(reward)),
        ess=effective_size(weight),
        mean=mean.value,
        mean_low=mean.low,
        mean_high=mean.high,
        largest=float(weight.max()),
    )
    _check_mean(summary, mean.standard_error)
    return DecisionEstimates(logged, (ips, snips), difference, summary, tuple(_warnings(summary)))


def _check_ess(log_weight: Floats, min_ess: float) -> None:
    largest = float(log_weight.max())
    if largest == -np.inf:
        raise Refusal(
            "the configuration would have served none of the logged weights: the log has no evidence about it. Choose "
            "a smaller change"
        )
    ess = effective_size(np.exp(log_weight - largest))
    # Equal weights may lack a rounding error of their number.
    if ess < min_ess * (1 - 1e-9):
        raise Refusal(
            f"the effective sample size is {ess:,.0f} of {len(log_weight):,} executions, and at least {min_ess:g} is "
            "needed (TALLY_MIN_ESS): the configuration would rarely have served the weights that were served. Choose a "
            "smaller change, or a longer range"
        )


def _check_mean(found: DecisionWeights, error: float) -> None:
    """Refuse a mean weight whose 99.9 % interval excludes 1."""
    if abs(found.mean - 1) > max(MEAN_TOLERANCE, _Z_999 * error):
        raise Refusal(
            f"the mean weight is {found.mean:.3f} (95 % interval {found.mean_low:.3f} to {found.mean_high:.3f}) "
            "instead of 1: the posteriors that were sent with the events are not those that the weights were drawn "
            "from, or too few executions have weights that the configuration would have served. Send "
            "learned_fusion_context unchanged, or choose a smaller change or a longer range"
        )


def _warnings(found: DecisionWeights) -> list[str]:
    warnings = []
    if abs(found.mean - 1) > MEAN_TOLERANCE and not found.mean_low <= 1 <= found.mean_high:
        warnings.append(
            f"the mean weight is {found.mean:.3f} (95 % interval {found.mean_low:.3f} to {found.mean_high:.3f}) "
            "instead of 1"
        )
    if found.rewarded_executions < FEW_REWARDED:
        warnings.append(f"only {found.rewarded_executions} executions have a reward: the intervals are too short")
    if found.users < FEW_USERS:
        warnings.append(f"only {found.users} users: the intervals are too short")
    return warnings
