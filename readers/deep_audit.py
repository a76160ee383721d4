"""Deep audit, which checks that each outcome is correct.

No id is stored twice, and no event on two partitions. Each duplicate's owner is stored, at a lower offset of the same
partition and within the window. Each moved event's copy has an outcome. A lookup by id returns the content of the
tables. Ids are processed in buckets of their hash, so memory is bounded.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import BaseModel

from readers.lookup import Lookups
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.expansions import Expansions
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from runtime.tasks import gather_or_cancel
from schemas.event_time import to_epoch_ms
from schemas.outcome import Deleted, DuplicateOf, Outcome, RejectedFor, Stored
from schemas.tables import HAS_KEY, INTERACTIONS, KEPT_FROM, OUTCOMES

IDS_PER_BUCKET = 2_000_000
IDS_NAMED = 100
"""Maximum errors of one kind that are named per bucket."""
LOOKUPS = 10_000
"""Approximate number of sampled ids that are looked up; fewer for a range of time."""

_OF_TOPIC = "_topic = {topic:String}"
_IN_RANGE = (
    "timestamp >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC') "
    "AND timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')"
)
_MINE = f"{_OF_TOPIC} AND {_IN_RANGE}"
_BUCKET = "cityHash64({id}) % {{buckets:UInt32}} = {{bucket:UInt32}}"
_ID_BUCKET = _BUCKET.format(id="interaction_id")
_COUNT = f"SELECT count() FROM {INTERACTIONS} WHERE {_OF_TOPIC}"
_TWICE = f"""
SELECT namespace, interaction_id, groupUniqArray(concat(toString(_partition), '/', toString(_offset))) AS places
FROM {INTERACTIONS} WHERE {_OF_TOPIC} AND {_ID_BUCKET}
GROUP BY namespace, interaction_id HAVING length(places) > 1 AND countIf({_MINE}) > 0 LIMIT {IDS_NAMED}
"""
_DUPLICATES = f"FROM {OUTCOMES} WHERE {_MINE} AND verdict = 'duplicate' AND {_BUCKET.format(id='duplicate_of')}"
_OWNERS = f"""
SELECT namespace, interaction_id, _topic, _partition, _offset, _event_time_ms, timestamp
FROM {INTERACTIONS} WHERE interaction_id IN (SELECT duplicate_of {_DUPLICATES}) ORDER BY _offset
"""
_WRONG_OWNER = f"""
SELECT namespace, duplicate.interaction_id, duplicate_of,
    multiIf(
        owner.interaction_id = '', 'its owner is not stored',
        owner._topic = duplicate._topic AND NOT (
            owner._partition = duplicate._partition AND owner._offset < duplicate._offset
            OR arrayExists(
                (before, ends) -> duplicate._partition % before = owner._partition
                    AND owner._partition != duplicate._partition AND owner._offset < ends[owner._partition + 1],
                {{befores:Array(UInt32)}}, {{ends:Array(Array(UInt64))}}
            )
        ), 'its owner does not come before it',
        duplicate.reason = 'same_id' AND owner.interaction_id != duplicate.interaction_id,
            'its owner has another id',
        duplicate.reason != 'same_id'
            AND abs(duplicate._event_time_ms - owner._event_time_ms) >= {{window_ms:Int64}},
            'their event times are not within the window',
        duplicate.reason = 'same_key'
            AND toUnixTimestamp64Milli(duplicate.timestamp) - toUnixTimestamp64Milli(owner.timestamp)
                >= 2 * {{window_ms:Int64}},
            'their append times are too far apart',
        ''
    ) AS why
FROM (SELECT * {_DUPLICATES}) AS duplicate
LEFT ANY JOIN ({_OWNERS}) AS owner
    ON owner.namespace = duplicate.namespace AND owner.interaction_id = duplicate.duplicate_of
WHERE why != '' LIMIT {IDS_NAMED}
"""
# Rows expire by month of append time, and a copy is younger than its original. So it exists as long as the original.
_LOST_MOVES = f"""
SELECT namespace, interaction_id, concat(toString(_partition), '/', toString(_offset)),
    concat(toString(_copy_partition), '/', toString(_copy_offset))
FROM {OUTCOMES} FINAL
WHERE {_MINE} AND timestamp >= {KEPT_FROM} AND verdict = 'moved' AND {_ID_BUCKET}
    AND _copy_offset < {{committed:Array(UInt64)}}[_copy_partition + 1]
    AND (namespace, interaction_id, _copy_partition, _copy_offset) NOT IN (
        SELECT namespace, interaction_id, _partition, _offset FROM {INTERACTIONS} WHERE {_OF_TOPIC} AND {_ID_BUCKET}
        UNION ALL
        SELECT namespace, interaction_id, _partition, _offset FROM {OUTCOMES} WHERE {_OF_TOPIC} AND {_ID_BUCKET}
    )
LIMIT {IDS_NAMED}
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
        WHERE {_KEYED} AND {_BUCKET.format(id="key")}
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
LIMIT {IDS_NAMED}
"""
_SAMPLED = f"{_MINE} AND cityHash64(interaction_id) % {{one_in:UInt64}} = 0"
_SAMPLE = f"""
SELECT namespace, interaction_id, min(verdict) FROM (
    SELECT namespace, interaction_id, 'a stored' AS verdict FROM {INTERACTIONS} WHERE {_SAMPLED}
    UNION ALL
    SELECT namespace, interaction_id, toString(verdict) FROM {OUTCOMES} WHERE {_SAMPLED} AND verdict != 'moved'
) GROUP BY namespace, interaction_id LIMIT {2 * LOOKUPS}
"""


class DeepAudit(BaseModel):
    """Errors found by the deep audit, as one text per event."""

    ids_twice: list[str] = []
    stored_apart: list[str] = []
    """Pairs of stored events on two partitions of which one should be a duplicate of the other."""
    wrong_owners: list[str] = []
    lost_moves: list[str] = []
    """Moved events whose copies have no outcome, although they are below the committed offset."""
    wrong_lookups: list[str] = []
    looked_up: int = 0

    @property
    def balances(self) -> bool:
        """Whether there are no errors."""
        return not (self.ids_twice or self.stored_apart or self.wrong_owners or self.lost_moves or self.wrong_lookups)


async def deep_audit(
    settings: Settings, database: ClickHouse, since: datetime | None = None, until: datetime | None = None
) -> DeepAudit:
    """Check every id of the topic, or those appended between two times.

    Run it while nothing is in flight: an event between two steps of its batch may look wrong. Raises Unavailable when
    Kafka or ClickHouse does not answer.
    """
    committed = await retrying("reading committed offsets", partial(_committed, settings), tries=COMMAND_ATTEMPTS)
    where: dict[str, Any] = {
        "topic": settings.topic,
        "since_ms": 0 if since is None else to_epoch_ms(since),
        "until_ms": 2**43 if until is None else to_epoch_ms(until),
        "window_ms": settings.dedup_window_ms,
        "committed": [committed.get(partition, 0) for partition in range(1 + max(committed, default=0))],
    }
    expansions = (await Expansions.read(settings.topic, database)).all
    where["befores"], where["ends"] = [each.before for each in expansions], [list(each.ends) for each in expansions]
    ((rows,),) = await database.rows(_COUNT, where)
    where["buckets"], where["one_in"] = 1 + rows // IDS_PER_BUCKET, 1 + rows // LOOKUPS
    result = DeepAudit()
    for bucket in range(where["buckets"]):
        where["bucket"] = bucket
        for namespace, interaction_id, places in await database.rows(_TWICE, where):
            result.ids_twice.append(f"{namespace} {interaction_id} at {', '.join(sorted(places))}")
        for namespace, interaction_id, owner_id, why in await database.rows(_WRONG_OWNER, where):
            result.wrong_owners.append(f"{namespace} {interaction_id}, duplicate of {owner_id}: {why}")
        for namespace, interaction_id, place, copy in await database.rows(_LOST_MOVES, where):
            result.lost_moves.append(f"{namespace} {interaction_id} at {place}: its copy at {copy} has no outcome")
        for namespace, one, one_at, other, other_at in await database.rows(_STORED_APART, where):
            result.stored_apart.append(f"{namespace} {one} at {one_at} and {other} at {other_at}")
    await _look_up(database, where, result)
    return result


async def _committed(settings: Settings) -> dict[int, int]:
    async with kafka.admin(settings) as admin:
        return await kafka.committed_offsets(admin, settings.group, settings.topic)


async def _look_up(database: ClickHouse, where: Mapping[str, Any], result: DeepAudit) -> None:
    lookups = Lookups(database, 2 * LOOKUPS)
    sample = await database.rows(_SAMPLE, where)
    result.looked_up = len(sample)
    try:
        answers = await gather_or_cancel(
            lookups.get(namespace, interaction_id) for namespace, interaction_id, _ in sample
        )
    finally:
        await lookups.close()
    for (namespace, interaction_id, verdict), answer in zip(sample, answers, strict=True):
        if not _agrees(answer, verdict):
            result.wrong_lookups.append(f"{namespace} {interaction_id} is {verdict}, a lookup returns {answer}")


def _agrees(answer: Outcome | None, verdict: str) -> bool:
    kinds = {"a stored": Stored, "duplicate": DuplicateOf, "rejected": RejectedFor}
    return isinstance(answer, (kinds[verdict], Deleted))
