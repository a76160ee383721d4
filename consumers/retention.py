"""Retention: what has grown old leaves the tables, but never the accounts.

A TTL in the table could delete rows that nobody has counted yet. Instead whole months move, each in one step, to
`outcomes_expiring`; there they are counted per partition and offset range into `ledger`, which is kept for good,
and only then dropped. Rows of such a month that come later stay in `outcomes` until the next time.

Events have no partitions to move. Their months are counted into the ledger, once, and then deleted; from the moment the
ledger has a month, the accounts go by it and look at no older row (`KEPT_FROM`), so that it makes no difference how far
the deletion is.
"""

import logging
from datetime import UTC, datetime, timedelta

from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.settings import Settings
from schemas.cluster import of_partition
from schemas.tables import EXPIRING, INTERACTIONS, LEDGER, OUTCOMES

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

_EVENTS_TO_LEDGER = f"""
INSERT INTO {LEDGER} (_topic, _partition, verdict, month, first_offset, last_offset, events)
SELECT _topic, _partition, verdict, month, min(_offset), max(_offset), count() FROM (
    SELECT _topic, _partition, _offset, toYYYYMM(min(timestamp)) AS month,
        if(max(is_deleted), 'deleted', 'stored') AS verdict
    FROM {INTERACTIONS}
    WHERE timestamp < {{before:DateTime64(3)}}
        AND (_topic, toYYYYMM(timestamp)) NOT IN (
            SELECT _topic, month FROM {LEDGER} WHERE verdict IN ('stored', 'deleted')
        )
    GROUP BY _topic, _partition, _offset
)
GROUP BY _topic, _partition, verdict, month
"""
_ARE_EXPIRED = f"SELECT count() FROM {INTERACTIONS} WHERE timestamp < {{before:DateTime64(3)}}"

log = logging.getLogger("tally.worker")


async def expire(settings: Settings, database: ClickHouse, *, events_too: bool) -> None:
    """Housekeeping: what it cannot do now it can do in an hour. One worker at a time may do it for `events_too`."""
    cluster = settings.clickhouse_cluster
    try:
        await expire_outcomes(database, settings.outcomes_days, cluster=cluster)
        if events_too and settings.interactions_days:
            await expire_interactions(database, settings.interactions_days, cluster=cluster)
    except TallyError as error:
        log.warning("what is old was not expired: %s", error)


async def expire_outcomes(
    database: ClickHouse, keep_days: int, now: datetime | None = None, *, cluster: str = ""
) -> list[int]:
    """Move months that lie wholly before `now - keep_days` to the ledger; returns them as YYYYMM.

    Safe to repeat: a month that a crash left between counting and dropping is counted again, over the same rows,
    into the same rows of the ledger.
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
    """Count what is expiring, then drop it."""
    for (month,) in await database.rows(_EXPIRING_MONTHS):
        await database.command(_TO_LEDGER, {"month": month})
        await database.command(of_partition(f"DROP PARTITION {int(month)}", EXPIRING, None, cluster))
        log.info("outcomes of %d moved to the ledger", month)


async def expire_interactions(
    database: ClickHouse, keep_days: int, now: datetime | None = None, *, cluster: str = ""
) -> int:
    """Count events of months that lie wholly before `now - keep_days` into the ledger, and delete them.

    Returns how many rows went. Safe to repeat after a crash; not to be run twice at a time: who counts must not see a
    half-deleted month.
    """
    oldest_kept = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    before = datetime(oldest_kept.year, oldest_kept.month, 1, tzinfo=UTC)
    where = {"before": before}
    ((rows,),) = await database.rows(_ARE_EXPIRED, where)
    if rows:
        await database.command(_EVENTS_TO_LEDGER, where)
        delete = (
            f"DELETE WHERE timestamp < toDateTime64('{before:%Y-%m-%d} 00:00:00', 3, 'UTC') SETTINGS mutations_sync = 2"
        )
        await database.command(of_partition(delete, INTERACTIONS, None, cluster))
        log.info("%s rows from before %s moved to the ledger", f"{rows:,}", f"{before:%Y-%m}")
    return int(rows)
