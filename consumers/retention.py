"""Retention of outcomes: what has grown old leaves the table, but never the accounts.

A TTL in the table could delete rows that nobody has counted yet. So whole months are dropped by this code
instead, each only after its counts per partition and offset range stand in `ledger`, which is kept for good.
"""

import logging
from datetime import UTC, datetime, timedelta

from runtime.clickhouse import ClickHouse
from schemas.tables import LEDGER, OUTCOMES

_OLD_MONTHS = (
    f"SELECT DISTINCT toYYYYMM(timestamp) AS month FROM {OUTCOMES} WHERE month < {{first_kept:UInt32}} ORDER BY month"
)
_TO_LEDGER = f"""
INSERT INTO {LEDGER} (_topic, _partition, verdict, month, first_offset, last_offset, events)
SELECT _topic, _partition, verdict, {{month:UInt32}}, min(_offset), max(_offset), count()
FROM {OUTCOMES} FINAL WHERE toYYYYMM(timestamp) = {{month:UInt32}}
GROUP BY _topic, _partition, verdict
"""

log = logging.getLogger("tally.worker")


async def expire_outcomes(database: ClickHouse, keep_days: int, now: datetime | None = None) -> list[int]:
    """Move months that lie wholly before `now - keep_days` to the ledger; returns them as YYYYMM.

    A crash between counting and dropping leaves the month in both; the next call counts it again, over the same
    rows, into the same ledger rows.
    """
    oldest_kept = (now or datetime.now(UTC)) - timedelta(days=keep_days)
    first_kept = oldest_kept.year * 100 + oldest_kept.month
    months = [int(month) for (month,) in await database.rows(_OLD_MONTHS, {"first_kept": first_kept})]
    for month in months:
        await database.command(_TO_LEDGER, {"month": month})
        await database.command(f"ALTER TABLE {OUTCOMES} DROP PARTITION {month}")
        log.info("outcomes of %d moved to the ledger", month)
    return months
