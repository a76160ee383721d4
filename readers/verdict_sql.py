"""Numbers of events by verdict, from the rows of a range of append time.

Each event counts once, also if a crash has inserted its row twice: rows with the same place in the log are one.
"""

from collections.abc import Mapping

from schemas.tables import INTERACTIONS, OUTCOMES

RANGE_SETTINGS: Mapping[str, int] = {"use_skip_indexes_if_final_exact_mode": 0}
"""ClickHouse settings of statements with FINAL over a range of append time: only the index's granules are read.

All rows of one event have the same append time, tombstones as well, so no version of it is elsewhere. Without the
setting ClickHouse also reads all granules between those of the first and of the last namespace or time.
"""


def select_verdicts(condition: str, slot: str) -> str:
    """Select (namespace, slot, verdict, events, last_at) of the rows that meet a condition. Use RANGE_SETTINGS.

    `slot`: expression to group by, over `timestamp`. Deletions replace rows by tombstones, which FINAL leaves out.
    """
    return f"""
SELECT namespace, {slot} AS slot, 'stored' AS verdict, count() AS events, max(timestamp) AS last_at
FROM {INTERACTIONS} FINAL WHERE {condition} GROUP BY namespace, slot
UNION ALL
SELECT namespace, {slot} AS slot, 'deleted' AS verdict, uniqExact(_topic, _partition, _offset) AS events,
    max(timestamp) AS last_at
FROM {INTERACTIONS} WHERE {condition} AND is_deleted GROUP BY namespace, slot
UNION ALL
SELECT namespace, {slot} AS slot, CAST(verdict, 'String') AS verdict, count() AS events, max(timestamp) AS last_at
FROM {OUTCOMES} FINAL WHERE {condition} GROUP BY namespace, slot, verdict"""
