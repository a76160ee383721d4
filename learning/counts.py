"""Counts of impressions and clicks by position, streamed from ClickHouse as arrays."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from learning.estimators.off_policy import MIN_PROPENSITY
from learning.scope import LearningScope, Refusal, select_shown
from runtime.analytics import bounded_stream, range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings

BUCKETS = 200
"""Random groups of executions that a bootstrap draws from. With fewer executions most are alone in their group."""
MAX_SEGMENTS = 1_000

_ROW = np.dtype(
    [
        ("segment", "<u4"),
        ("item", "<u8"),
        ("position", "<u4"),
        ("bucket", "<u2"),
        ("impressions", "<u4"),
        ("clicks", "<u4"),
    ]
)
_LOGGED_ROW = np.dtype([*_ROW.descr, ("propensity", "<f8")])
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class ClickCounts(NamedTuple):
    """Impressions and clicks of one segment. All arrays have one entry for each (item, position, bucket, propensity).

    An item is a pair of query and document, numbered from 0. Positions are 0-based. Sorted in this order.
    """

    item: Integers
    position: Integers
    bucket: Integers
    """Random group of the execution, from 0 to BUCKETS - 1."""
    impressions: Integers
    clicks: Integers
    propensity: Floats | None = None
    """Logged propensity of the impressions, from MIN_PROPENSITY to 1; None if it was not read."""
    without_query: int = 0
    """Impressions of executions without a query text, which are in no item."""

    @property
    def items(self) -> int:
        """Number of items."""
        return int(self.item[-1]) + 1 if len(self.item) else 0


async def read_click_counts(
    settings: Settings, database: ClickHouse, scope: LearningScope, *, with_propensity: bool = False
) -> dict[str, ClickCounts]:
    """Return the counts of each segment, by its text, in order of the texts.

    Memory: 26 bytes for each (item, position, bucket), at most TALLY_LEARNING_CELLS of them; `with_propensity`, 34
    bytes for each logged propensity of these. Raises Refusal for more counts, where nothing was shown, and where an
    impression lacks a propensity that is needed; RangeTooLarge; Unavailable.
    """
    with range_errors(settings, "the count of clicks"):
        segments = await _segments(settings, database, scope)
        if with_propensity:
            await _check_propensities(settings, database, scope)
        rows = await _rows(settings, database, scope, segments, with_propensity=with_propensity)
    counts = dict[str, ClickCounts]()
    for number, (segment, without_query) in enumerate(segments.items()):
        own = rows[rows["segment"] == number]
        _, item = np.unique(own["item"], return_inverse=True)
        position, bucket, impressions, clicks = (
            own[name].astype(np.int64) for name in ("position", "bucket", "impressions", "clicks")
        )
        logged = own["propensity"].astype(np.float64) if with_propensity else None
        if len(own):
            counts[segment] = ClickCounts(
                item.astype(np.int64), position, bucket, impressions, clicks, logged, without_query
            )
    return counts


async def _check_propensities(settings: Settings, database: ClickHouse, scope: LearningScope) -> None:
    sql = f"""
SELECT count(), countIf(propensity IS NULL), countIf(NOT ifNull(propensity >= {MIN_PROPENSITY} AND propensity <= 1, 1))
FROM ({select_shown(scope)})"""
    ((shown, missing, wrong),) = await database.rows(sql, scope.parameters(), limits=report_limits(settings))
    if missing:
        raise Refusal(f"{missing:,} of {shown:,} shown results have no number in metadata.propensity")
    if wrong:
        raise Refusal(
            f"metadata.propensity of {wrong:,} of {shown:,} shown results is not from {MIN_PROPENSITY:g} to 1"
        )


async def _segments(settings: Settings, database: ClickHouse, scope: LearningScope) -> dict[str, int]:
    """Return the segments, each with the impressions of executions without a query text."""
    sql = f"""
SELECT segment, countIf(query = '') AS without_query, countIf(query != '') AS with_query
FROM ({select_shown(scope)}) GROUP BY segment ORDER BY segment LIMIT {MAX_SEGMENTS + 1}"""
    found = await database.rows(sql, scope.parameters(), limits=report_limits(settings))
    if len(found) > MAX_SEGMENTS:
        path = ".".join(scope.segment_path)
        raise Refusal(f"metadata.{path} has more than {MAX_SEGMENTS:,} values: choose one with fewer")
    scope.check_shown(
        is_any=bool(found),
        has_query=any(with_query for _, _, with_query in found),
        has_segment=any(segment for segment, _, _ in found),
    )
    return {segment: without_query for segment, without_query, _ in found}


async def _rows(
    settings: Settings, database: ClickHouse, scope: LearningScope, segments: Iterable[str], *, with_propensity: bool
) -> npt.NDArray[np.void]:
    most = settings.learning_cells
    key = "number, item, position, bucket" + ", logged" * with_propensity
    logged = ", assumeNotNull(propensity) AS logged" if with_propensity else ""
    sql = f"""
SELECT
    toUInt32(indexOf({{segments:Array(String)}}, segment) - 1) AS number, sipHash64(query, feature_id) AS item,
    position,
    toUInt16(sipHash64(execution) % {BUCKETS}) AS bucket, toUInt32(count()), toUInt32(sum(clicked)){logged}
FROM ({select_shown(scope)}) WHERE query != ''
GROUP BY {key}
ORDER BY {key}
LIMIT {most + 1}
FORMAT RowBinary"""
    found = bytearray()
    values = {**scope.parameters(), "segments": list(segments)}
    async with bounded_stream(settings, database, sql, values) as pieces:
        async for piece in pieces:
            found += piece
    rows = np.frombuffer(found, _LOGGED_ROW if with_propensity else _ROW)
    if len(rows) > most:
        raise Refusal(f"the range has more than {most:,} counts: choose a shorter one, or raise TALLY_LEARNING_CELLS")
    return rows
