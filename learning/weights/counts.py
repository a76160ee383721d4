"""Counts of results by context, as weights are learned from them: the generation in force of each day."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from learning.estimators.posterior import DaySums, ResultCount
from runtime.clickhouse import ClickHouse
from schemas.learning_config import LearningConfig
from schemas.rewards import MicroRewards
from schemas.tables import LEARNING_COUNTS, LEARNING_DAYS
from schemas.type_sets import IMPRESSION, type_set

Level = Literal["personal", "segment", "global"]

SEGMENT_SEPARATOR = "|"
"""Separator of the texts of a segment, in the order of demographic_features."""

# FINAL: a retried insert may have stored rows twice.
_IN_FORCE = f"""
FROM {LEARNING_COUNTS} FINAL
PREWHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}}
    AND (level, context) IN arrayZip({{levels:Array(String)}}, {{contexts:Array(String)}})
WHERE day <= toDate({{last_day:Int32}}) AND (day, generation) IN (
    SELECT day, max(generation) FROM {LEARNING_DAYS}
    WHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}} GROUP BY day
)
"""
_COUNTS = f"""
SELECT level, context, toUInt32(day), feature_uri, type_sets, times, results {_IN_FORCE}
ORDER BY level, context, day, feature_uri, type_sets, times
"""
MAX_KNOWN_FEATURES = 1_000
"""Features of one context whose sums are read: those with most results. Each takes about 200 bytes in memory."""
# The sums of learning.estimators.posterior.day_sums, in ClickHouse: a year of a retriever is a hundred thousand counts.
# All of them are whole numbers, so both ways give the same bits. Compiling the expressions takes up to a second, during
# which requests for weights would wait.
_SUMS = f"""
WITH arrayMap(x -> toInt64(x), {{micros:Array(String)}}) AS micros,
    arrayMap(x -> toUInt32(x), {{bits:Array(String)}}) AS bits,
    arrayMap(
        types -> greatest(-{{most:Int64}}, least({{most:Int64}},
            arraySum((bit, value) -> if(bitAnd(types, bit) != 0, value, 0), bits, micros))),
        type_sets
    ) AS rewards,
    arraySum((reward, number) -> greatest(0, reward) * toInt64(number), rewards, times) AS positive,
    arraySum((reward, number) -> greatest(0, -reward) * toInt64(number), rewards, times) AS negative,
    arrayExists(types -> bitAnd(types, {IMPRESSION}) != 0, type_sets) AS is_shown,
    arraySum((reward, number) -> if(reward != 0, toInt64(number), 0), rewards, times) AS interactions
SELECT level, context, feature_uri, groupArray(sums) FROM (
    SELECT level, context, feature_uri, toInt64(sum(results)) AS size, [
        toInt64(day), sum(toInt64(results) * positive), sum(toInt64(results) * negative),
        sum(if(is_shown AND positive = 0, toInt64(results), 0)), sum(toInt64(results) * interactions)
    ] AS sums
    {_IN_FORCE}
    GROUP BY level, context, feature_uri, day
)
GROUP BY level, context, feature_uri
ORDER BY level, context, sum(size) DESC, feature_uri
LIMIT {MAX_KNOWN_FEATURES} BY level, context
SETTINGS compile_expressions = 0, compile_aggregate_expressions = 0
"""
LAST_DAY = 65_535
"""Largest day of a Date in ClickHouse."""


class ContextKey(NamedTuple):
    """Context of a retriever: a user, a segment, or all (with an empty context)."""

    level: Level
    context: str = ""


GLOBAL = ContextKey("global")


def contexts_of(config: LearningConfig, user: str, segment: str) -> tuple[ContextKey, ...]:
    """Return the contexts whose counts may decide about a search, the most specific one first."""
    found = []
    if config.is_personal and user:
        found.append(ContextKey("personal", user))
    if config.segment_paths and config.fallback_strategy == "hierarchical" and segment:
        found.append(ContextKey("segment", segment))
    return (*found, GLOBAL)


async def read_counts(
    database: ClickHouse, namespace: str, retriever: str, wanted: Sequence[ContextKey], last_day: int = LAST_DAY
) -> dict[ContextKey, list[ResultCount]]:
    """Return the counts of contexts up to a day (days since 1970-01-01), those without any left out.

    Raises Unavailable.
    """
    parameters: dict[str, Any] = {
        "namespace": namespace,
        "retriever": retriever,
        "levels": [each.level for each in wanted],
        "contexts": [each.context for each in wanted],
        "last_day": last_day,
    }
    found: dict[ContextKey, list[ResultCount]] = {}
    for level, context, day, feature, type_sets, times, results in await database.rows(_COUNTS, parameters):
        counts = found.setdefault(ContextKey(level, context), [])
        counts.append(ResultCount(int(day), feature, tuple(type_sets), tuple(times), int(results)))
    return found


Sums = dict[tuple[str, int], DaySums]
"""Sums by feature and day."""

_read_sums = msgspec.json.Decoder(tuple[Level, str, str, list[tuple[int, int, int, int, int]]]).decode_lines


async def read_sums(
    database: ClickHouse,
    namespace: str,
    retriever: str,
    wanted: Sequence[ContextKey],
    rewards: MicroRewards,
    last_day: int = LAST_DAY,
) -> dict[ContextKey, Sums]:
    """Return the sums of contexts up to a day (days since 1970-01-01), empty ones for contexts without counts.

    They equal `day_sums` of `read_counts`, for at most MAX_KNOWN_FEATURES of a context. Raises Unavailable.
    """
    rewarded = {name: value for name, value in rewards.rewards.items() if value}
    parameters = {
        "namespace": namespace,
        "retriever": retriever,
        "levels": [each.level for each in wanted],
        "contexts": [each.context for each in wanted],
        "last_day": str(last_day),
        "bits": [str(type_set([name])) for name in rewarded],
        "micros": [str(value) for value in rewarded.values()],
        "most": str(rewards.most),
    }
    found: dict[ContextKey, Sums] = {each: {} for each in wanted}
    for level, context, feature, days in _read_sums(await database.fetch(_SUMS, parameters)):
        of_context = found[ContextKey(level, context)]
        for day, *sums in days:
            of_context[feature, day] = DaySums(*sums)
    return found
