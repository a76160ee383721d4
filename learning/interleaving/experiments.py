"""Experiments of a namespace, found by the tokens of its events."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from learning.interleaving.tokens import MAX_NAME_BYTES, TOKEN_KEY, TOKEN_PREFIX
from runtime.analytics import range_errors, range_parameters, report_limits
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import RANGE
from schemas.event_time import iso_ms
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS

MAX_EXPERIMENTS = 100

# The signatures are not checked here: the result of an experiment checks each.
_EXPERIMENTS = f"""
SELECT
    tryBase64URLDecode(substring(parts[1], {len(TOKEN_PREFIX) + 1})) AS experiment, uniqExact(parts[2]) AS drafts,
    min(event_time) AS first_at, max(event_time) AS last_at
FROM (
    SELECT event_time, splitByChar('.', JSONExtractString(metadata, {literal(TOKEN_KEY)})) AS parts
    FROM {INTERACTIONS} FINAL
    WHERE {RANGE}
)
WHERE startsWith(parts[1], {literal(TOKEN_PREFIX)}) AND length(parts) = 4
GROUP BY experiment
HAVING experiment != '' AND length(experiment) <= {MAX_NAME_BYTES} AND isValidUTF8(experiment)
ORDER BY last_at DESC, experiment
LIMIT {MAX_EXPERIMENTS}"""


async def list_experiments(
    settings: Settings, database: ClickHouse, namespace: str, since: datetime, until: datetime
) -> Sequence[dict[str, Any]]:
    """Return the experiments with events in a range of event time, the one with the newest event first.

    Raises RangeTooLarge, Unavailable.
    """
    values = range_parameters(namespace, since, until)
    with range_errors(settings, "the list of experiments"):
        rows = await database.rows(_EXPERIMENTS, values, limits=report_limits(settings))
    return [
        {"experiment": name, "drafts": int(drafts), "first": iso_ms(first), "last": iso_ms(last)}
        for name, drafts, first, last in rows
    ]
