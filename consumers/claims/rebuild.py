"""Rebuild of lost claims: Redis is a cache of the log's last 2W, and ClickHouse has the rows it was made from."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from consumers import failpoints
from consumers.batch import Slice
from consumers.claims.client import CHUNK_OWNERS, Claims, Lease
from consumers.claims.owners import OwnerRows, rows_of
from runtime.clickhouse import ClickHouse
from runtime.expansions import INHERITED_OFFSET_SHIFT, Expansions
from runtime.metrics import CLAIMS_REBUILT
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.dedup import dedup_key
from schemas.tables import HAS_KEY, INTERACTIONS, OUTCOMES

OFFSETS_PER_QUERY = 50_000
"""Offsets whose rows are in memory at a time: about 40 MB."""

_IN_REACH = (
    "_topic = {topic:String} AND _partition = {partition:UInt32} "
    "AND timestamp >= fromUnixTimestamp64Milli({reach_ms:Int64}, 'UTC') AND _offset < {before:UInt64}"
)
# The partition of a row that has a deduplication key, as by `schemas.wire.partition_key` and `partition_of`.
_BELONGS_ON = (
    "kafkaMurmurHash(concat(namespace, ':', if(ifNull(execution_id, '') != '', assumeNotNull(execution_id), "
    "_idempotency_key))) % {partitions:UInt32} = {home:UInt32}"
)
_EXTENT = f"SELECT count(), min(_offset), max(_offset) FROM {INTERACTIONS} WHERE {_IN_REACH}"
_OWNERS = (
    "SELECT namespace, execution_id, feature_id, interaction_type, _idempotency_key, _offset, _event_time_ms, "
    f"toUnixTimestamp64Milli(timestamp), interaction_id FROM {INTERACTIONS} "
    f"WHERE {_IN_REACH} AND _offset >= {{first:UInt64}} AND _offset < {{end:UInt64}} "
    f"AND {HAS_KEY} AND {_BELONGS_ON} ORDER BY _offset LIMIT 1 BY _offset"
)

_REFUSED = (
    f"SELECT count() > 0 FROM {OUTCOMES} WHERE _topic = {{topic:String}} AND _partition = {{partition:UInt32}} "
    "AND timestamp >= fromUnixTimestamp64Milli({reach_ms:Int64}, 'UTC') "
    "AND reason IN ('refused_by_table', 'internal_error')"
)

log = logging.getLogger("tally.worker")


class Rebuild:
    """Restores a partition's lost claims from its stored rows of the last 2W."""

    def __init__(self, settings: Settings, claims: Claims, database: ClickHouse, expansions: Expansions) -> None:
        self._topic = settings.topic
        self._reach_back_ms = settings.reach_back_ms
        self._skew_ms = settings.clock_skew_ms
        self._claims = claims
        self._database = database
        self._expansions = expansions

    async def must_give_up_claims(self, part: Slice) -> bool:
        """Whether an event was refused lately whose claim Redis may still have, since Redis can lose the release."""
        where = {
            "topic": self._topic,
            "partition": part.partition,
            # Twice as far: a batch that was decided about again may itself have reached back 2W.
            "reach_ms": max(0, part.first_append_ms - 2 * self._reach_back_ms),
        }
        ((refused,),) = await retrying("looking for refused events", partial(self._database.rows, _REFUSED, where))
        return bool(refused)

    async def run(self, lease: Lease, *, first_offset: int, append_ms: int) -> None:
        """Restore every owner before `first_offset` that a record appended at `append_ms` or later may match.

        Events stored from there on claim their keys when their records are read, so this never takes more than the
        last 2W of the log. Tombstones count, too: their events were stored. Raises Fenced, and ClaimsLost when Redis
        loses the claims again meanwhile.
        """
        reach_ms = max(0, append_ms - self._reach_back_ms)
        for ancestor in self._expansions.ancestors(lease.partition):
            if ancestor.end:
                await self._restore(lease, ancestor.partition, ancestor.end, reach_ms, inherited=True)
        if first_offset:
            await self._restore(lease, lease.partition, first_offset, reach_ms)
        finish = partial(
            self._claims.finish,
            lease,
            last_offset=first_offset - 1,
            append_ms=append_ms + self._skew_ms,  # an earlier record may have a later time
            reach_ms=append_ms - self._reach_back_ms,
        )
        await retrying("rebuilding claims", finish)

    async def _restore(
        self, lease: Lease, partition: int, before: int, reach_ms: int, *, inherited: bool = False
    ) -> None:
        """Restore owners on a partition below an offset; inherited ones only if their keys belong on this one now."""
        where = {
            "topic": self._topic,
            "partition": partition,
            "reach_ms": reach_ms,
            "before": before,
            "partitions": self._expansions.partitions if inherited else 1,
            "home": lease.partition if inherited else 0,
        }
        extent = await retrying("rebuilding claims", partial(self._database.rows, _EXTENT, where))
        rows, first, last = extent[0]
        if rows:
            source = f"partition {partition}'s " if inherited else ""
            log.warning("rebuilding claims of partition %d from %s%s stored rows", lease.partition, source, f"{rows:,}")
        done = 0
        for start in range(first, last + 1, OFFSETS_PER_QUERY) if rows else ():
            span = {"first": start, "end": start + OFFSETS_PER_QUERY}
            found = await retrying("rebuilding claims", partial(self._database.rows, _OWNERS, {**where, **span}))
            for at in range(0, len(found), CHUNK_OWNERS):
                owners = _owners_of(found[at : at + CHUNK_OWNERS], INHERITED_OFFSET_SHIFT if inherited else 0)
                await retrying("rebuilding claims", partial(self._claims.restore, lease, owners))
            await failpoints.reached("restored")
            done += len(found)
            CLAIMS_REBUILT.inc(len(found))
            log.info("rebuilt %s claims of partition %d", f"{done:,}", lease.partition)


def _owners_of(found: Sequence[Sequence[Any]], shift: int) -> OwnerRows:
    namespaces, executions, features, types, idempotency_keys, offsets, event_ms, append_ms, ids = zip(
        *found, strict=True
    )
    keys = map(dedup_key, namespaces, executions, features, types, idempotency_keys)
    # The query leaves out rows without a key.
    shifted = [offset + shift for offset in offsets]
    return rows_of([key for key in keys if key is not None], shifted, event_ms, append_ms, ids)
