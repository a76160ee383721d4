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
from readers.misplaced import lost_moves, stored_apart
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.expansions import Expansions
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from runtime.tasks import gather_or_cancel
from schemas.event_time import to_epoch_ms
from schemas.outcome import Deleted, DuplicateOf, Outcome, RejectedFor, Stored
from schemas.tables import INTERACTIONS, OUTCOMES

IDS_PER_BUCKET = 2_000_000
IDS_NAMED = 100
LOOKUPS = 10_000
"""Approximate number of sampled ids that are looked up; fewer for a range of time."""

_MINE = (
    "_topic = {topic:String} AND timestamp >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC') "
    "AND timestamp < fromUnixTimestamp64Milli({until_ms:Int64}, 'UTC')"
)
_BUCKET = "cityHash64({id}) % {{buckets:UInt32}} = {{bucket:UInt32}}"
_COUNT = f"SELECT count() FROM {INTERACTIONS} WHERE _topic = {{topic:String}}"
_TWICE = f"""
SELECT namespace, interaction_id, groupUniqArray(concat(toString(_partition), '/', toString(_offset))) AS places
FROM {INTERACTIONS} WHERE _topic = {{topic:String}} AND {_BUCKET.format(id="interaction_id")}
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
        result.lost_moves += await lost_moves(database, where)
        result.stored_apart += await stored_apart(database, where)
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
