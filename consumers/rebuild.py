"""Rebuilding claims: Redis is a cache of the log's last 2W, and ClickHouse holds what it was made from."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from consumers import seams
from runtime.claims import Claim, Claims, Lease
from runtime.clickhouse import ClickHouse
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.dedup import dedup_key
from schemas.tables import INTERACTIONS

OFFSETS_PER_QUERY = 50_000
"""Rows of so many offsets are in memory at a time: about 40 MB."""

_IN_REACH = (
    "_topic = {topic:String} AND _partition = {partition:UInt32} "
    "AND timestamp >= fromUnixTimestamp64Milli({reach_ms:Int64}, 'UTC')"
)
_EXTENT = (
    "SELECT count(), min(_offset), max(_offset), toUnixTimestamp64Milli(max(timestamp)) "
    f"FROM {INTERACTIONS} WHERE {_IN_REACH}"
)
_OWNERS = (
    "SELECT namespace, execution_id, feature_id, interaction_type, _idempotency_key, _offset, _event_time_ms, "
    f"toUnixTimestamp64Milli(timestamp), interaction_id FROM {INTERACTIONS} "
    f"WHERE {_IN_REACH} AND _offset >= {{first:UInt64}} AND _offset < {{end:UInt64}} "
    "AND (ifNull(execution_id, '') != '' OR _idempotency_key != '') ORDER BY _offset"
)

log = logging.getLogger("tally.worker")


class Rebuild:
    """Puts back a partition's lost claims from the rows that were stored lately."""

    def __init__(self, settings: Settings, claims: Claims, database: ClickHouse) -> None:
        self._topic = settings.topic
        self._window_ms = settings.dedup_window_ms
        self._claims = claims
        self._database = database

    async def run(self, lease: Lease, *, first_append_ms: int, last_offset: int) -> None:
        """Restore every owner that a record appended at `first_append_ms` or later may meet.

        Rows that are deleted count too: their events were stored. Raises Fenced, and ClaimsLost when Redis loses
        the claims once more on the way.
        """
        where = {
            "topic": self._topic,
            "partition": lease.partition,
            "reach_ms": max(0, first_append_ms - 2 * self._window_ms),
        }
        extent = await retrying("rebuilding claims", partial(self._database.rows, _EXTENT, where))
        rows, first, last, newest = extent[0]
        if rows:
            log.warning("partition %d: rebuilding claims from %s stored rows", lease.partition, f"{rows:,}")
        done = 0
        for start in range(first, last + 1, OFFSETS_PER_QUERY) if rows else ():
            span = {"first": start, "end": start + OFFSETS_PER_QUERY}
            found = await retrying("rebuilding claims", partial(self._database.rows, _OWNERS, {**where, **span}))
            await retrying("rebuilding claims", partial(self._claims.restore, lease, [_claim_of(row) for row in found]))
            await seams.reached("restored")
            done += len(found)
            log.info("partition %d: %s claims rebuilt", lease.partition, f"{done:,}")
        append_ms = max(first_append_ms, newest) if rows else first_append_ms
        finish = partial(self._claims.finish, lease, last_offset=last_offset, append_ms=append_ms)
        await retrying("rebuilding claims", finish)


def _claim_of(row: Sequence[Any]) -> Claim:
    namespace, execution_id, feature_id, types, idempotency_key, offset, event_ms, append_ms, interaction_id = row
    key = dedup_key(namespace, execution_id, feature_id, types, idempotency_key)
    if key is None:
        raise AssertionError("the query leaves out rows without a key")
    return Claim(key, offset, event_ms, append_ms, interaction_id)
