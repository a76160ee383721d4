"""Counts of results by context, as weights are learned from them: the generation in force of each day."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from learning.estimators.posterior import ResultCount
from runtime.clickhouse import ClickHouse
from schemas.tables import LEARNING_COUNTS, LEARNING_DAYS

Level = Literal["personal", "segment", "global"]

SEGMENT_SEPARATOR = "|"
"""Separator of the texts of a segment, in the order of demographic_features."""

# FINAL: a retried insert may have stored rows twice.
_COUNTS = f"""
SELECT level, context, toUInt32(day), feature_uri, type_sets, times, results FROM {LEARNING_COUNTS} FINAL
PREWHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}}
    AND (level, context) IN arrayZip({{levels:Array(String)}}, {{contexts:Array(String)}})
WHERE day <= toDate({{last_day:Int32}}) AND (day, generation) IN (
    SELECT day, max(generation) FROM {LEARNING_DAYS}
    WHERE namespace = {{namespace:String}} AND retriever_id = {{retriever:String}} GROUP BY day
)
ORDER BY level, context, day, feature_uri, type_sets, times
"""
LAST_DAY = 65_535
"""Largest day of a Date in ClickHouse."""


class ContextKey(NamedTuple):
    """Context of a retriever: a user, a segment, or all (with an empty context)."""

    level: Level
    context: str = ""


GLOBAL = ContextKey("global")


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
