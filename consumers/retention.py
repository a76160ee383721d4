"""Retention: old rows leave the tables after they were counted.

A TTL in the table could delete rows that are not counted yet. Instead whole months move, each in one step, to
`outcomes_expiring`. There they are counted per partition and offset range into `ledger`, which is kept for ever, and
only then dropped. Rows of such a month that are stored later stay in `outcomes` until the next run.

The rows of events have no partitions to move. Their months are counted into the ledger, once, and then deleted. Once
the ledger has a month, audits use it and read no older row (`KEPT_FROM`), so the deletion's progress does not matter.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta

from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait, start
from schemas.cluster import local, of_partition
from schemas.tables import EXPIRING, INTERACTIONS, LEDGER, OUTCOMES

EXPIRE_EVERY_S = 3600.0

_OLD_MONTHS = f"""
SELECT DISTINCT toYYYYMM(timestamp) AS month FROM {OUTCOMES} WHERE month < {{first_kept:UInt32}} ORDER BY month
"""
_EXPIRING_MONTHS = f"SELECT DISTINCT toYYYYMM(timestamp) AS month FROM {EXPIRING} ORDER BY month"
_TO_LEDGER = f"""
INSERT INTO {LEDGER} (_topic, _partition, verdict, month, first_offset, last_offset, events)
SELECT _topic, _partition, verdict, {{month:UInt32}}, min(_offset), max(_offset), count()
FROM {EXPIRING} FINAL WHERE toYYYYMM(timestamp) = {{month:UInt32}}
GROUP BY _topic, _partition, verdict
"""

_EXPIRED = f"""
timestamp < {{before:DateTime64(3)}} AND (_topic, toYYYYMM(timestamp)) NOT IN (
    SELECT _topic, month FROM {LEDGER} WHERE verdict IN ('stored', 'deleted')
)
"""
_EVENTS_TO_LEDGER = f"""
INSERT INTO {LEDGER} (_topic, _partition, verdict, month, first_offset, last_offset, events)
SELECT _topic, _partition, 'stored', toYYYYMM(timestamp), min(_offset), max(_offset), count()
FROM {INTERACTIONS} FINAL WHERE {_EXPIRED} GROUP BY ALL
UNION ALL
SELECT _topic, _partition, 'deleted', toYYYYMM(timestamp), min(_offset), max(_offset), uniqExact(_offset)
FROM {INTERACTIONS} WHERE is_deleted AND {_EXPIRED} GROUP BY ALL
"""
_ARE_EXPIRED = f"SELECT count() FROM {INTERACTIONS} WHERE timestamp < {{before:DateTime64(3)}}"
_IS_BEING_DELETED = (
    "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND table = {table:String} AND NOT is_done"
)

log = logging.getLogger("tally.worker")


class Housekeeping:
    """Background task that expires old rows every EXPIRE_EVERY_S; after a failure the next run catches up."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._settings = settings
        self._database = database
        self._due_at = 0.0
        self._running: asyncio.Task[None] | None = None

    def begin_if_due(self, *, events_too: bool) -> None:
        """Start a run if one is due and none is running. Only one worker of a group may pass `events_too`."""
        if time.monotonic() >= self._due_at and (self._running is None or self._running.done()):
            self._due_at = time.monotonic() + EXPIRE_EVERY_S
            self._running = start(self._expire(events_too=events_too), "retention")

    async def _expire(self, *, events_too: bool) -> None:
        settings = self._settings
        cluster = settings.clickhouse_cluster
        try:
            await expire_outcomes(self._database, settings.outcomes_days, cluster=cluster)
            if events_too and settings.interactions_days:
                await expire_interactions(self._database, settings.interactions_days, cluster=cluster)
        except TallyError as error:
            log.warning("retention run failed: %s; the next one starts within %.0f s", error, EXPIRE_EVERY_S)

    async def ended(self) -> None:
        """Wait until the current run has ended."""
        if self._running is not None:
            await asyncio.wait((self._running,))

    async def close(self) -> None:
        """Cancel the current run; the next one continues it."""
        await cancel_and_wait(self._running)


async def expire_outcomes(
    database: ClickHouse, keep_days: int, now: datetime | None = None, *, cluster: str = ""
) -> list[int]:
    """Move outcomes of months wholly before `now - keep_days` to the ledger; returns the months as YYYYMM.

    Safe to repeat: a month that a crash left between counting and dropping is counted again, over the same rows,
    into the same rows of the ledger. Raises TallyError.
    """
    oldest_kept = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    first_kept = oldest_kept.year * 100 + oldest_kept.month
    await _settle(database, cluster)
    months = [int(month) for (month,) in await database.rows(_OLD_MONTHS, {"first_kept": first_kept})]
    for month in months:
        await database.command(of_partition(f"MOVE PARTITION {month}", OUTCOMES, EXPIRING, cluster))
        await _settle(database, cluster)
    return months


async def _settle(database: ClickHouse, cluster: str) -> None:
    """Count the rows of `outcomes_expiring` into the ledger, then drop them."""
    for (month,) in await database.rows(_EXPIRING_MONTHS):
        await database.command(_TO_LEDGER, {"month": month})
        await database.command(of_partition(f"DROP PARTITION {int(month)}", EXPIRING, None, cluster))
        log.info("outcomes of %d moved to the ledger", month)


async def expire_interactions(
    database: ClickHouse, keep_days: int, now: datetime | None = None, *, cluster: str = "", wait: bool = False
) -> int:
    """Count events of months wholly before `now - keep_days` into the ledger, and delete them; returns their rows.

    ClickHouse deletes in the background unless `wait`. Safe to repeat after a crash, but not to run twice at a time: a
    month must not be counted while it is being deleted. Raises TallyError.
    """
    oldest_kept = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    before = datetime(oldest_kept.year, oldest_kept.month, 1, tzinfo=UTC)
    where = {"before": before}
    ((rows,),) = await database.rows(_ARE_EXPIRED, where)
    ((running,),) = await database.rows(_IS_BEING_DELETED, {"table": local(INTERACTIONS) if cluster else INTERACTIONS})
    if not rows or running:
        return 0
    await database.command(_EVENTS_TO_LEDGER, where)
    since = f"toDateTime64('{before:%Y-%m-%d} 00:00:00', 3, 'UTC')"
    delete = f"DELETE WHERE timestamp < {since} SETTINGS mutations_sync = {2 if wait else 0}"
    await database.command(of_partition(delete, INTERACTIONS, None, cluster))
    log.info("%s events of months before %s moved to the ledger", f"{rows:,}", f"{before:%Y-%m}")
    return int(rows)
