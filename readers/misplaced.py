"""Deep audit of misplaced events: whether each moved event has its copy, and whether one event is stored on two
partitions, where neither can be a duplicate of the other."""

from collections.abc import Mapping
from typing import Any

from runtime.clickhouse import ClickHouse
from schemas.tables import HAS_KEY, INTERACTIONS, KEPT_FROM, OUTCOMES

MAX_NAMED = 100
"""Maximum findings of one kind that are named per bucket."""

_OF_TOPIC = "_topic = {topic:String}"
_IN_RANGE = (
    "timestamp >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC') "
    "AND timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')"
)
_ID_BUCKET = "cityHash64(interaction_id) % {buckets:UInt32} = {bucket:UInt32}"

# Rows expire by month of append time, and a copy is younger than its original. So it exists as long as the original.
_LOST_MOVES = f"""
SELECT namespace, interaction_id, concat(toString(_partition), '/', toString(_offset)),
    concat(toString(_copy_partition), '/', toString(_copy_offset))
FROM {OUTCOMES} FINAL
WHERE {_OF_TOPIC} AND {_IN_RANGE} AND timestamp >= {KEPT_FROM} AND verdict = 'moved' AND {_ID_BUCKET}
    AND _copy_offset < {{committed:Array(UInt64)}}[_copy_partition + 1]
    AND (namespace, interaction_id, _copy_partition, _copy_offset) NOT IN (
        SELECT namespace, interaction_id, _partition, _offset FROM {INTERACTIONS} WHERE {_OF_TOPIC} AND {_ID_BUCKET}
        UNION ALL
        SELECT namespace, interaction_id, _partition, _offset FROM {OUTCOMES} WHERE {_OF_TOPIC} AND {_ID_BUCKET}
    )
LIMIT {MAX_NAMED}
"""

# Equal for equal deduplication keys (`schemas.dedup.dedup_key`), and computable in ClickHouse.
_KEY = (
    "if(ifNull(execution_id, '') != '', sipHash128(namespace, 'execution', assumeNotNull(execution_id), feature_id, "
    "arraySort(arrayDistinct(interaction_type))), sipHash128(namespace, 'token', _idempotency_key))"
)
_KEYED = f"{_OF_TOPIC} AND {HAS_KEY}"
_STORED_APART = f"""
WITH apart AS (
    SELECT {_KEY} AS key, namespace, interaction_id, _partition, _offset, _event_time_ms AS event_ms,
        toUnixTimestamp64Milli(timestamp) AS append_ms, {_IN_RANGE} AS in_range,
        intDiv(event_ms, {{window_ms:Int64}}) AS slice
    FROM {INTERACTIONS} WHERE {_KEYED} AND key IN (
        SELECT {_KEY} AS key FROM {INTERACTIONS}
        WHERE {_KEYED} AND cityHash64(key) % {{buckets:UInt32}} = {{bucket:UInt32}}
        GROUP BY key HAVING uniqExact(_partition) > 1
    )
    LIMIT 1 BY _partition, _offset
)
SELECT one.namespace, one.interaction_id, concat(toString(one._partition), '/', toString(one._offset)),
    other.interaction_id, concat(toString(other._partition), '/', toString(other._offset))
FROM apart AS one
INNER JOIN (SELECT *, arrayJoin([slice - 1, slice, slice + 1]) AS near FROM apart) AS other
    ON one.key = other.key AND one.slice = other.near
WHERE one._partition < other._partition AND (one.in_range OR other.in_range)
    AND abs(one.event_ms - other.event_ms) < {{window_ms:Int64}}
    AND abs(one.append_ms - other.append_ms) < 2 * {{window_ms:Int64}}
LIMIT {MAX_NAMED}
"""


async def lost_moves(database: ClickHouse, where: Mapping[str, Any]) -> list[str]:
    """Return moved events of a bucket whose copies are below the committed offset and have no outcome.

    Raises Unavailable.
    """
    return [
        f"{namespace} {interaction_id} at {place}: its copy at {copy} has no outcome"
        for namespace, interaction_id, place, copy in await database.rows(_LOST_MOVES, where)
    ]


async def stored_apart(database: ClickHouse, where: Mapping[str, Any]) -> list[str]:
    """Return pairs of a bucket's stored events that repeat one another on two partitions. Raises Unavailable."""
    return [
        f"{namespace} {one} at {one_at} and {other} at {other_at}"
        for namespace, one, one_at, other, other_at in await database.rows(_STORED_APART, where)
    ]
