"""Values of policies, estimated from the shown results of a retriever."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from learning.estimators.off_policy import LoggedResults, OffPolicyEstimates, OffPolicyEstimator, estimate_value
from learning.estimators.reward_model import FOLDS, ModelledResults, expected_rewards
from learning.policy_match import LoggedKeys, MatchedResults, match_policy
from learning.scope import LearningScope, Refusal, select_shown
from learning.target_policy import TargetPolicy
from runtime.analytics import bounded_stream, range_errors
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import reward_of
from schemas.rewards import MICROS, RewardMap

ESTIMATORS: tuple[OffPolicyEstimator, ...] = get_args(OffPolicyEstimator)
CLICK_REWARD = RewardMap({"click": 1.0})
LARGE_UNSEEN_SHARE = 0.01
"""Share of a policy's probability on documents without results from which a refusal names it."""

_ROW = np.dtype(
    [
        ("execution", "<u8"),
        ("query", "<u8"),
        ("document", "<u8"),
        ("position", "<u4"),
        ("reward", "<i4"),
        ("propensity", "<f8"),
    ]
)


class PolicyRequest(NamedTuple):
    """Policy to evaluate on the results of a scope."""

    scope: LearningScope
    policy: TargetPolicy
    rewards: RewardMap = CLICK_REWARD
    """Rewards of types. A result has the sum over the types of its events, each type once."""
    estimators: tuple[OffPolicyEstimator, ...] = ESTIMATORS
    min_ess: float | None = None
    """Smallest effective sample size; None: TALLY_MIN_ESS."""
    max_weight: float | None = None
    """Weight to which larger ones are clipped; None: no clipping."""


class PolicyEvaluation(NamedTuple):
    """Estimated value of a policy."""

    found: OffPolicyEstimates
    left_out: int
    """Results for whose query and position the policy has no probabilities. They are in no number."""
    unseen_share: float
    """Share of the policy's probability on documents that the log never shows for that query and position."""

    def described(self) -> dict[str, Any]:
        """Return the evaluation as plain values."""
        found = self.found
        return {
            "logged": asdict(found.logged),
            "estimates": [asdict(each) for each in found.estimates],
            "difference": asdict(found.difference),
            "weights": asdict(found.weights),
            "left_out": self.left_out,
            "unseen_share": self.unseen_share,
            "warnings": list(found.warnings),
            "notes": list(found.notes),
        }


async def evaluate_policy(
    settings: Settings, database: ClickHouse, request: PolicyRequest, progress: Callable[[int], None] = lambda _: None
) -> PolicyEvaluation:
    """Estimate the value of a policy. `progress` receives the number of results read so far.

    Memory: about 200 bytes for each result, at most TALLY_LEARNING_CELLS of them. Raises Refusal where the log cannot
    answer; RangeTooLarge; Unavailable.
    """
    with range_errors(settings, "the evaluation"):
        rows = await _read(settings, database, request, progress)
    return await asyncio.to_thread(_evaluate, settings, request, rows)


async def _read(
    settings: Settings, database: ClickHouse, request: PolicyRequest, progress: Callable[[int], None]
) -> npt.NDArray[np.void]:
    """Return the shown results in the order of (execution, document) by their hashes."""
    most = settings.learning_cells
    reward = reward_of(request.rewards.rewards, request.rewards.most)
    sql = f"""
SELECT
    sipHash64(execution) AS run, halfMD5(query) AS query_hash, halfMD5(feature_id) AS document, position,
    toInt32(round({reward} * {MICROS})), ifNull(propensity, nan)
FROM (SELECT *, types AS interaction_type FROM ({select_shown(request.scope)}))
ORDER BY run, document, query_hash
LIMIT {most + 1}
FORMAT RowBinary"""
    found = bytearray()
    async with bounded_stream(settings, database, sql, request.scope.parameters()) as pieces:
        async for piece in pieces:
            found += piece
            progress(len(found) // _ROW.itemsize)
    rows = np.frombuffer(found, _ROW)
    if not len(rows):
        raise request.scope.nothing_shown()
    if len(rows) > most:
        raise Refusal(f"the range has more than {most:,} results: choose a shorter one, or raise TALLY_LEARNING_CELLS")
    return rows


def _evaluate(settings: Settings, request: PolicyRequest, rows: npt.NDArray[np.void]) -> PolicyEvaluation:
    keys = LoggedKeys(rows["query"], rows["document"], rows["position"].astype(np.int64))
    matched = match_policy(request.policy, keys, settings.learning_cells)
    own = rows[matched.kept]
    execution = np.unique(own["execution"], return_inverse=True)[1].astype(np.int64)
    reward = own["reward"] / MICROS
    results = LoggedResults(reward, own["propensity"].astype(np.float64), matched.probability, execution)
    if "dr" in request.estimators:
        expected, of_policy = _expected(own, reward, matched)
        results = results._replace(expected=expected, expected_of_policy=of_policy)
    min_ess = settings.min_ess if request.min_ess is None else request.min_ess
    try:
        found = estimate_value(results, request.estimators, min_ess=min_ess, max_weight=request.max_weight)
    except Refusal as refusal:
        if matched.unseen_share < LARGE_UNSEEN_SHARE:
            raise
        share = f"{matched.unseen_share:.0%} of the policy's probability is on documents that the log never shows"
        raise Refusal(f"{refusal}; {share}") from None
    return PolicyEvaluation(found, len(rows) - len(own), matched.unseen_share)


def _expected(
    own: npt.NDArray[np.void], reward: npt.NDArray[np.float64], matched: MatchedResults
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the model's expected rewards. The fold of an execution is its hash, so that it never changes."""
    fold = (own["execution"] % np.uint64(FOLDS)).astype(np.int64)
    position = np.unique(own["position"], return_inverse=True)[1]
    results = ModelledResults(reward, position, matched.item, matched.context, fold)
    return expected_rewards(results, matched.entries)
