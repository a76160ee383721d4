"""Comparison of the outcomes in two databases, offset by offset."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from readers.log_range import LogRange
from runtime.clickhouse import ClickHouse

OFFSETS_PER_COMPARISON = 2_000_000
DIFFERENCES_NAMED = 100

_OUTCOMES_OF = """
SELECT _offset, concat('stored ', interaction_id) AS outcome FROM {database}.interactions FINAL WHERE {where}
UNION ALL SELECT _offset, concat(toString(verdict), ' ', if(verdict = 'duplicate', duplicate_of, reason))
FROM {database}.outcomes FINAL WHERE {where}
"""
_IN_RANGE = (
    "_topic = {topic:String} AND _partition = {partition:UInt32} "
    "AND _offset >= {first:UInt64} AND _offset < {end:UInt64}"
)


class Difference(NamedTuple):
    """Offset whose two outcomes differ; an outcome is empty where there is none."""

    partition: int
    offset: int
    before: str
    now: str


@dataclass
class Comparison:
    """Comparison of stored with replayed outcomes, over the replayed offsets."""

    same: int = 0
    changed: int = 0
    """Offsets with different outcomes, or with an outcome on one side only."""
    first: list[Difference] = field(default_factory=list)
    """The first changed offsets, at most `DIFFERENCES_NAMED`."""


async def compare(
    database: ClickHouse, before: str, now: str, topic: str, ranges: Mapping[int, LogRange]
) -> Comparison:
    """Compare the outcomes in the databases `before` and `now`, over a range of offsets of each partition."""
    result = Comparison()
    sides = [_OUTCOMES_OF.format(database=each, where=_IN_RANGE) for each in (before, now)]
    joined = f"({sides[0]}) AS before FULL OUTER JOIN ({sides[1]}) AS now ON before._offset = now._offset"
    for partition, offsets in ranges.items():
        for piece in offsets.pieces(OFFSETS_PER_COMPARISON):
            where = {"topic": topic, "partition": partition, "first": piece.first, "end": piece.end}
            counts = "countIf(before.outcome = now.outcome), countIf(before.outcome != now.outcome)"
            ((same, changed),) = await database.rows(f"SELECT {counts} FROM {joined}", where)
            result.same += same
            result.changed += changed
            if changed and len(result.first) < DIFFERENCES_NAMED:
                rows = await database.rows(
                    "SELECT greatest(before._offset, now._offset) AS at, before.outcome, now.outcome "
                    f"FROM {joined} WHERE before.outcome != now.outcome ORDER BY at LIMIT {DIFFERENCES_NAMED}",
                    where,
                )
                result.first += [Difference(partition, *row) for row in rows]
                del result.first[DIFFERENCES_NAMED:]
    return result
