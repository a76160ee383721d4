"""Overview of a topic: lag of the consumers, and counts of outcomes."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from pydantic import BaseModel

from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, KEPT_FROM, LEDGER, OUTCOMES

OFFSETS_PER_QUERY = 1_000

_LIVE = f"_topic = {{topic:String}} AND timestamp >= {KEPT_FROM}"
_COUNTS = f"""
SELECT 'stored', count() FROM {INTERACTIONS} FINAL WHERE {_LIVE}
UNION ALL SELECT 'deleted', uniqExact(_partition, _offset) FROM {INTERACTIONS} WHERE {_LIVE} AND is_deleted
UNION ALL SELECT toString(verdict), count() FROM {OUTCOMES} FINAL WHERE _topic = {{topic:String}} GROUP BY verdict
UNION ALL SELECT toString(verdict), sum(events) FROM {LEDGER} FINAL WHERE _topic = {{topic:String}} GROUP BY verdict
"""
_WITHHELD = (
    f"SELECT namespace, count() AS events FROM {OUTCOMES} FINAL WHERE _topic = {{topic:String}} "
    "AND reason = 'namespace_held' AND replayed_as = '' GROUP BY namespace ORDER BY events DESC, namespace LIMIT 20"
)
_NAMESPACES = (
    f"SELECT namespace, count() AS events FROM {INTERACTIONS} GROUP BY namespace "
    "ORDER BY events DESC, namespace LIMIT 10"
)
_AT_OFFSETS = "_topic = {topic:String} AND _partition = {partition:UInt32} AND _offset IN {offsets:Array(UInt64)}"
_COUNTS_AT = f"""
SELECT verdict, uniqExact(_offset) FROM (
    SELECT _offset, if(max(is_deleted), 'deleted', 'stored') AS verdict FROM {INTERACTIONS}
    WHERE {_AT_OFFSETS} GROUP BY _offset
    UNION ALL SELECT _offset, toString(verdict) FROM {OUTCOMES} WHERE {_AT_OFFSETS}
) GROUP BY verdict
"""


class PartitionLag(BaseModel):
    """Lag of one partition: end of its log, committed offset, and their difference in records."""

    partition: int
    end_offset: int
    committed: int
    lag: int


class VerdictCounts(BaseModel):
    """Number of events by verdict."""

    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    deleted: int = 0
    moved: int = 0
    """Misplaced events; their copies are counted as well, by their own outcomes."""

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add numbers of events, given as rows of a verdict and a number."""
        for verdict, events in rows:
            name = "duplicates" if verdict == "duplicate" else verdict
            setattr(self, name, getattr(self, name) + int(events))

    @property
    def total(self) -> int:
        """Number of events with an outcome."""
        return self.stored + self.duplicates + self.rejected + self.deleted + self.moved

    @property
    def as_text(self) -> str:
        """Counts as one line of text."""
        text = f"{self.stored:,} stored, {self.duplicates:,} duplicates, {self.rejected:,} rejected"
        return f"{text}, {self.moved:,} moved" if self.moved else text


class Overview(BaseModel):
    """State of one topic and its tables."""

    partitions: list[PartitionLag]
    verdicts: VerdictCounts

    @property
    def lag(self) -> int:
        """Number of records that are not committed yet."""
        return sum(partition.lag for partition in self.partitions)


async def read_overview(settings: Settings, database: ClickHouse) -> Overview:
    """Read the lag from Kafka and the counts from ClickHouse. Raises Unavailable."""
    return Overview(partitions=await read_lag(settings), verdicts=await count_verdicts(settings, database))


async def read_lag(settings: Settings) -> list[PartitionLag]:
    """Return each partition's end and committed offset, 0 for a partition without a commit. Raises Unavailable."""
    async with kafka.admin(settings) as admin, kafka.offset_reader(settings) as offsets:
        numbers = await kafka.partition_numbers(admin, settings.topic)
        partitions = [TopicPartition(settings.topic, number) for number in numbers]
        ask = partial(kafka.committed_offsets, admin, settings.group, settings.topic)
        committed = await retrying("reading committed offsets", ask, tries=COMMAND_ATTEMPTS)
        # Last: records that are appended and committed in the meantime must not make the lag negative.
        ends = await kafka.end_offsets(offsets, partitions)
    done = {tp: committed.get(tp.partition, 0) for tp in partitions}
    return [
        PartitionLag(partition=tp.partition, end_offset=ends[tp], committed=done[tp], lag=ends[tp] - done[tp])
        for tp in sorted(partitions)
    ]


async def count_verdicts(settings: Settings, database: ClickHouse) -> VerdictCounts:
    """Count the outcomes of all events of the topic."""
    counts = VerdictCounts()
    counts.add(await database.rows(_COUNTS, {"topic": settings.topic}))
    return counts


async def events_by_namespace(database: ClickHouse) -> dict[str, int]:
    """Return the number of stored rows of the 10 largest namespaces, the largest first."""
    return {namespace: int(events) for namespace, events in await database.rows(_NAMESPACES)}


async def count_withheld(settings: Settings, database: ClickHouse) -> dict[str, int]:
    """Count events held as dead letters and not replayed yet, for the 20 namespaces with the most of them."""
    return {namespace: int(events) for namespace, events in await database.rows(_WITHHELD, {"topic": settings.topic})}


async def count_verdicts_at(
    settings: Settings, database: ClickHouse, offsets: Mapping[int, Sequence[int]]
) -> VerdictCounts:
    """Count the outcomes of records at these offsets, by partition; events without an outcome are not counted."""
    counts = VerdictCounts()
    for partition, wanted in offsets.items():
        for start in range(0, len(wanted), OFFSETS_PER_QUERY):
            some = list(wanted[start : start + OFFSETS_PER_QUERY])
            parameters = {"topic": settings.topic, "partition": partition, "offsets": some}
            counts.add(await database.rows(_COUNTS_AT, parameters))
    return counts
