"""Deletion of counts that are no longer in force."""

from learning.weights.count_progress import RANDOM_BITS
from runtime.analytics import report_limits
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.cluster import of_partition
from schemas.tables import LEARNING_COUNTS, LEARNING_DAYS

KEEP_SUPERSEDED_S = 600
"""Seconds that superseded counts are kept, and between two deletions: statements that read them have ended by then."""
_MOST = 1_000
"""Days of one statement."""

# Only what is below the generation in force: a larger one may be published yet.
_SUPERSEDED = f"""
SELECT DISTINCT retriever_id, toUInt16(day), generation FROM {LEARNING_COUNTS}
INNER JOIN (
    SELECT namespace, retriever_id, day, max(generation) AS newest FROM {LEARNING_DAYS}
    GROUP BY namespace, retriever_id, day
) AS in_force USING (namespace, retriever_id, day)
WHERE generation < newest
    AND bitShiftRight(newest, {RANDOM_BITS}) <= toUnixTimestamp64Micro(now64(6)) - {{kept_us:Int64}}
LIMIT {_MOST}"""
_IS_SUPERSEDED = (
    "(retriever_id, toUInt16(day), generation) IN "
    "arrayZip({retrievers:Array(String)}, {days:Array(UInt16)}, {generations:Array(UInt64)})"
)


async def delete_superseded(settings: Settings, database: ClickHouse, kept_s: float = KEEP_SUPERSEDED_S) -> int:
    """Delete the counts of days that another generation replaced `kept_s` ago or earlier; returns their number.

    The rows are gone on return, also those of users whose events were deleted. Raises Unavailable.
    """
    deleted = 0
    delete = f"DELETE WHERE {_IS_SUPERSEDED} SETTINGS mutations_sync = 2"
    while True:
        values = {"kept_us": round(kept_s * 1_000_000)}
        found = await database.rows(_SUPERSEDED, values, limits=report_limits(settings))
        if not found:
            return deleted
        retrievers, days, generations = map(list, zip(*found, strict=True))
        await database.command(
            of_partition(delete, LEARNING_COUNTS, None, settings.clickhouse_cluster),
            {"retrievers": retrievers, "days": days, "generations": generations},
        )
        deleted += len(found)
