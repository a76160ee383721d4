"""Decisions of the log: the draws from which the weights of each execution were served, and the reward that followed.

The durable record of a decision is `metadata.learned_fusion_context` of the impressions of its execution.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from learning.estimators.posterior import SMALLEST_EXPLORATION, Shape
from learning.scope import LearningScope, Refusal
from learning.weights.counts import SEGMENT_SEPARATOR, Level
from runtime.analytics import bounded_stream, range_errors
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import EXECUTION, IS_IMPRESSION, RANGE, reward_of
from schemas.learning_config import LearningConfig
from schemas.rewards import MICROS, RewardMap
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS

MAX_MISSING_SHARE = 0.05
"""Largest share of executions without a decision. Beyond it nothing is estimated: they may be of other users."""

MAX_INTERACTIONS = 2**53
"""Largest number of interactions of a context: the largest exact one in JSON."""

LeftOut = Literal[
    "missing", "unreadable", "conflicting", "static", "shadow", "session", "mean", "bounds", "no_counts", "target_mean"
]
REASONS: Mapping[LeftOut, str] = {
    "missing": "no metadata.learned_fusion_context on an impression",
    "unreadable": "a learned_fusion_context without posterior, draws or config_version, or with impossible numbers",
    "conflicting": "impressions with different contexts",
    "static": "static weights were served",
    "shadow": "static weights were served in shadow mode",
    "session": "session signals, which are not kept, were part of the posterior",
    "mean": "the mean was served without a draw (exploration 0)",
    "bounds": "the weights had other bounds, so that the same draws would have been served as other weights",
    "no_counts": "no counts before that day: the configuration would have served static weights",
    "target_mean": "the configuration would have served the mean without a draw (exploration 0)",
}
"""Reasons for which an execution is in no estimate."""
ADVICE: Mapping[LeftOut, str] = {
    "missing": "send learned_fusion_context of the answer with the weights as metadata.learned_fusion_context of every "
    "impression",
    "unreadable": "send learned_fusion_context unchanged, as it was received",
    "conflicting": "give each search an execution_id of its own, and its impressions the same learned_fusion_context",
    "static": "raise rollout_pct, or choose a range in which learned weights were served",
    "shadow": "set shadow_mode to false, with a small rollout_pct, and choose a range after that",
    "session": "leave session_id out of a share of searches",
    "mean": "set exploration_floor above 0, leave mean=true out, and choose a range after that",
    "bounds": "leave min_weight and max_weight as they were when the weights were served",
    "no_counts": "what-if is possible from the day after the first counted day (`tally learn counts`)",
    "target_mean": "choose a larger exploration_floor",
}
"""Advice for each reason: changes with which later executions can be in estimates."""


class DecisionRecord(msgspec.Struct):
    """Parts of a learned_fusion_context from which a decision is judged."""

    context_level: Literal["personal", "segment", "global", "static"]
    feature_uris: list[str] = []
    sampled_weights: dict[str, float] = {}
    effective_exploration: float = 0.0
    posterior: dict[str, tuple[float, float]] = {}
    config_version: int = 0
    interactions: int = 0
    session: bool = False
    shadow: bool = False


class LoggedDecision(NamedTuple):
    """Decision whose weights were drawn and served."""

    day: int
    """Days from 1970-01-01 to its first impression, UTC."""
    user: str
    """Empty: none."""
    segment: str
    """Empty: none."""
    unit: int
    """Hash of the user, else session, else execution."""
    reward: float
    """Sum over all events of the execution in the range."""
    level: Level
    features: tuple[str, ...]
    draws: tuple[float, ...]
    """By feature, before clipping."""
    shapes: tuple[Shape, ...]
    exploration: float
    interactions: int
    version: int
    """Version of the configuration."""


class DecisionLog(NamedTuple):
    """Decisions of a range, in an order that does not depend on the stores."""

    decisions: list[LoggedDecision]
    executions: int
    """With an impression of the retriever, those that are left out included."""
    left_out: Counter[LeftOut]


async def read_decisions(
    settings: Settings,
    database: ClickHouse,
    scope: LearningScope,
    config: LearningConfig,
    measure: RewardMap,
    progress: Callable[[int], None] = lambda _: None,
) -> DecisionLog:
    """Return the decisions of a scope, of which impressions name the retriever.

    `config`: names the paths of segments. `measure`: rewards of types. `progress` receives the number of executions
    read. Memory: about 1 kB for each execution, at most TALLY_WHATIF_EXECUTIONS of them with TALLY_LEARNING_TEXT_BYTES.
    Raises Refusal, RangeTooLarge and Unavailable.
    """
    most = settings.whatif_executions
    sql = f"{_select_decisions(config, measure)} LIMIT {most + 1} FORMAT JSONCompactEachRow"
    found = bytearray()
    with range_errors(settings, "the estimate"):
        async with bounded_stream(settings, database, sql, scope.parameters()) as pieces:
            lines = 0
            async for piece in pieces:
                found += piece
                lines += piece.count(b"\n")
                progress(lines)
                if len(found) > settings.learning_text_bytes:
                    raise Refusal(
                        f"the decisions of the range have more than {settings.learning_text_bytes:,} bytes: choose a "
                        "shorter one, or raise TALLY_LEARNING_TEXT_BYTES"
                    )
    if not found:
        raise scope.nothing_shown()
    if lines > most:
        raise Refusal(
            f"the range has more than {most:,} executions: choose a shorter one, or raise TALLY_WHATIF_EXECUTIONS"
        )
    return await asyncio.to_thread(_parse, found.splitlines())


def _select_decisions(config: LearningConfig, measure: RewardMap) -> str:
    """Select a row for each execution: its id, day, user, segment, unit, reward in millionths, and up to two contexts.

    Impressions alone name the retriever and the context: those of clicks would select clicked executions.
    """
    context = "JSONExtractRaw(metadata, 'learned_fusion_context')"
    reward = reward_of(measure.rewards, measure.most)
    return f"""
SELECT
    {EXECUTION} AS execution, toUInt32(toDate(minIf(event_time, {IS_IMPRESSION}), 'UTC')),
    max(ifNull(user_id, '')) AS user, max({_segment(config)}),
    toString(sipHash64(coalesce(nullIf(user, ''), max(nullIf(session_id, '')), execution))),
    toString(sum(toInt64(round({reward} * {MICROS})))),
    arraySort(groupUniqArrayIf(2)({context}, {IS_IMPRESSION} AND {context} NOT IN ('', 'null')))
FROM {INTERACTIONS} FINAL
WHERE {RANGE}
GROUP BY execution
HAVING maxIf(ifNull(retriever_id, ''), {IS_IMPRESSION}) = {{retriever:String}} AND max({IS_IMPRESSION})
ORDER BY sipHash64(execution), execution"""


def _segment(config: LearningConfig) -> str:
    """Return the segment of an event: its texts joined, or empty if one of them is missing."""
    texts = [f"JSONExtractString(metadata, {', '.join(map(literal, path))})" for path in config.segment_paths]
    if not texts:
        return "''"
    joined = f"arrayStringConcat([{', '.join(texts)}], {literal(SEGMENT_SEPARATOR)})"
    return f"if(has([{', '.join(texts)}], ''), '', {joined})"


def _parse(lines: list[bytearray]) -> DecisionLog:
    left_out: Counter[LeftOut] = Counter()
    decisions = []
    row = msgspec.json.Decoder(tuple[str, int, str, str, str, str, list[str]])
    record = msgspec.json.Decoder(DecisionRecord)
    for line in lines:
        _, day, user, segment, unit, micros, contexts = row.decode(line)
        found = _record(record, contexts)
        if not isinstance(found, DecisionRecord):
            left_out[found] += 1
            continue
        decisions.append(_decision((day, user, segment, int(unit), int(micros) / MICROS), found))
    _check_missing(left_out["missing"], len(lines))
    return DecisionLog(decisions, len(lines), left_out)


def _record(decoder: "msgspec.json.Decoder[DecisionRecord]", contexts: list[str]) -> DecisionRecord | LeftOut:
    """Return the only context of an execution if its weights were drawn and served, else the reason."""
    if len(contexts) != 1:
        return "conflicting" if contexts else "missing"
    try:
        found = decoder.decode(contexts[0])
    except msgspec.DecodeError:
        return "unreadable"
    return _reason(found) or found


def _reason(found: DecisionRecord) -> LeftOut | None:
    """Return the reason for which a context says nothing about draws, or None."""
    if found.context_level == "static":
        return "static"
    if found.shadow:
        return "shadow"
    if found.session:
        return "session"
    if not _is_whole(found):
        return "unreadable"
    return "mean" if found.effective_exploration < SMALLEST_EXPLORATION else None


def _is_whole(found: DecisionRecord) -> bool:
    """Return whether each feature has a draw and a posterior, with possible values."""
    names = found.feature_uris
    if not names or found.config_version < 1 or not 0 <= found.effective_exploration < math.inf:
        return False
    if not 0 <= found.interactions <= MAX_INTERACTIONS:
        return False
    for name in names:
        theta, shape = found.sampled_weights.get(name, -1.0), found.posterior.get(name, (0.0, 0.0))
        if not 0 <= theta <= 1 or not all(0 < value < math.inf for value in shape):
            return False
    return True


def _decision(about: tuple[int, str, str, int, float], found: DecisionRecord) -> LoggedDecision:
    level: Any = found.context_level
    features = tuple(dict.fromkeys(found.feature_uris))
    return LoggedDecision(
        *about,
        level,
        features,
        tuple(found.sampled_weights[name] for name in features),
        tuple(Shape(*found.posterior[name]) for name in features),
        found.effective_exploration,
        found.interactions,
        found.config_version,
    )


def _check_missing(missing: int, executions: int) -> None:
    if missing > MAX_MISSING_SHARE * executions:
        raise Refusal(
            f"{missing:,} of {executions:,} executions have no decision: put learned_fusion_context of the answer with "
            "the weights into metadata.learned_fusion_context of every impression, or choose a range from when that "
            "was done"
        )
