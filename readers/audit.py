"""Audit of the outcome of every offset of the topic, from the log and the tables.

    accepted = stored + duplicates + rejected + deleted + moved + in flight + expired unread + expired outcomes

Every offset is in one of them only. Every record ever appended is accepted: the offsets up to the log's end, except
transaction markers and aborted records. Offsets at or past the committed one without an outcome are in flight.
Remaining offsets are lost, and offsets with two outcomes are recorded twice; the audit names them. A hole is an offset
without an outcome where the log has neither record nor marker: an accepted event that compaction has removed. It counts
as lost.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from pydantic import Field

from readers.log_range import LogContents, LogRange, log_contents, range_of_times
from readers.overview import VerdictCounts
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.kafka import LogBounds
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, KEPT_FROM, LEDGER, OUTCOMES

OFFSETS_PER_QUERY = 2_000_000
"""Offsets compared by one query: about 50 MB in ClickHouse, regardless of the topic's length."""

OFFSETS_EXPLAINED_AT_ONCE = 100_000
"""Offsets in memory at a time while the log is searched for those without an outcome."""

OFFSETS_NAMED = 1_000
"""Maximum offsets named per partition; all are counted."""

_IN_PARTITION = "_topic = {topic:String} AND _partition = {partition:UInt32}"
_IN_RANGE = f"{_IN_PARTITION} AND _offset >= {{first:UInt64}} AND _offset < {{end:UInt64}}"
_RECORDED = (
    f"SELECT _offset, if(max(is_deleted), 'deleted', 'stored') AS verdict FROM {INTERACTIONS} WHERE {_IN_RANGE} "
    f"AND timestamp >= {KEPT_FROM} GROUP BY _offset "
    f"UNION DISTINCT SELECT _offset, toString(verdict) FROM {OUTCOMES} WHERE {_IN_RANGE}"
)
VERDICTS = ("stored", "duplicate", "rejected", "deleted", "moved")
_COUNTED = ", ".join(f"countIf(verdict = '{each}')" for each in VERDICTS)
_COUNTS = f"SELECT {_COUNTED}, uniqExact(_offset) FROM ({_RECORDED})"
_TWICE = f"SELECT _offset FROM ({_RECORDED}) GROUP BY _offset HAVING count() > 1 ORDER BY _offset LIMIT {OFFSETS_NAMED}"
_WITHOUT_OUTCOME = (
    "SELECT number FROM numbers({first:UInt64}, {length:UInt64}) "
    f"WHERE number NOT IN (SELECT _offset FROM ({_RECORDED})) ORDER BY number"
)
_LEDGER = (
    f"SELECT toString(verdict), first_offset, last_offset + 1, events FROM {LEDGER} FINAL "
    f"WHERE {_IN_PARTITION} AND first_offset < {{end:UInt64}} AND last_offset >= {{first:UInt64}}"
)


class PartitionAudit(VerdictCounts):
    """Audit of one partition. `lost`, `holes` and `recorded_twice` name the first OFFSETS_NAMED offsets each.

    Moved events have copies on the partition of their key, where they are accepted and counted.
    """

    partition: int
    accepted: int = 0
    in_flight: int = 0
    expired_unread: int = 0
    """Events that retention, or a person, removed from the log before a worker read them."""
    expired_outcomes: int = 0
    """Events that the ledger counts but cannot attribute to single offsets."""
    not_records: int = 0
    """Offsets of transaction markers and aborted records. Not part of `accepted`."""
    difference: int = 0
    """`accepted` minus the other terms: 0, or the number of lost events (positive) or repeated outcomes (negative)."""
    lost: list[int] = Field(default_factory=list)
    """Offsets of records without an outcome that the log still has, or that retention has removed."""
    holes: list[int] = Field(default_factory=list)
    """Offsets of accepted events without an outcome that compaction has removed from the log."""
    recorded_twice: list[int] = Field(default_factory=list)

    @property
    def balances(self) -> bool:
        """Whether every accepted event has exactly one outcome, or is in flight."""
        return not (self.difference or self.recorded_twice or self.lost or self.holes or self.expired_unread)


async def audit(
    settings: Settings,
    database: ClickHouse,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    ranges: Mapping[int, LogRange] | None = None,
) -> AsyncIterator[PartitionAudit]:
    """Audit the topic, or the part appended between two times or within `ranges` of offsets, partition by partition.

    The tables are read after the log's ends and the commits, so a running consumer does not distort the result.
    Raises Unavailable when a store does not answer, and TallyError for a log that ends before its committed offset.
    """
    async with kafka.admin(settings) as admin:
        partitions = await kafka.partition_numbers(admin, settings.topic)
        ask = partial(kafka.committed_offsets, admin, settings.group, settings.topic)
        committed = await retrying("reading committed offsets", ask, tries=COMMAND_ATTEMPTS)
    async with kafka.offset_reader(settings) as log:
        bounds = await kafka.log_bounds(log, settings.topic, partitions)
        for partition in partitions:
            found = bounds[partition]._replace(committed=committed.get(partition, 0))
            place = TopicPartition(settings.topic, partition)
            if committed.get(partition, 0) > found.end:
                raise TallyError(
                    f"{settings.topic}/{partition} is committed at offset {found.committed}, but its log ends at "
                    f"{found.end}: the topic was truncated or recreated, and cannot be audited against these tables"
                )
            asked = (ranges or {}).get(partition) or await range_of_times(log, place, found, since, until)
            yield await _PartitionAuditor(settings, place, found, asked, database).audit()


class _PartitionAuditor:
    """Auditor of one partition."""

    def __init__(
        self, settings: Settings, place: TopicPartition, bounds: LogBounds, asked: LogRange, database: ClickHouse
    ) -> None:
        self._settings = settings
        self._place = place
        self._bounds = bounds
        self._asked = asked
        self._database = database
        self._result = PartitionAudit(partition=place.partition)
        self._counted_to = 0
        """Offset below which outcomes may be in the ledger only."""
        self._counted = 0
        """Maximum number of outcomes that are in the ledger only."""
        self._ledger_is_exact = True

    async def audit(self) -> PartitionAudit:
        """Count every offset once."""
        result, bounds = self._result, self._bounds
        committed = min(bounds.committed or 0, bounds.end)
        await self._add_ledger()
        for piece in self._asked.intersection(0, committed).pieces(OFFSETS_PER_QUERY):
            if await self._add_recorded(piece) < len(piece):
                for smaller in piece.pieces(OFFSETS_EXPLAINED_AT_ONCE):
                    await self._explain(smaller)
        for piece in self._asked.intersection(committed, bounds.start).pieces(OFFSETS_PER_QUERY):
            result.expired_unread += len(piece) - await self._add_recorded(piece)
        for piece in self._asked.intersection(max(committed, bounds.start), bounds.end).pieces(OFFSETS_PER_QUERY):
            result.in_flight += len(piece) - await self._add_recorded(piece)
        result.accepted = len(self._asked) - result.not_records
        accounted = result.total + result.in_flight
        result.difference = result.accepted - accounted - result.expired_unread - result.expired_outcomes
        return result

    async def _add_ledger(self) -> None:
        """Add expired outcomes from the ledger, if all their entries are within the audited range."""
        entries = await self._rows(_LEDGER, self._asked)
        self._counted_to = max((end for _, _, end, _ in entries), default=0)
        self._counted = sum(events for *_, events in entries)
        self._ledger_is_exact = all(
            self._asked.first <= first and end <= self._asked.end for _, first, end, _ in entries
        )
        if self._ledger_is_exact:
            self._result.add((verdict, events) for verdict, _, _, events in entries)

    async def _add_recorded(self, part: LogRange) -> int:
        """Add the outcomes that the tables have in a range, and return the number of their offsets."""
        result = self._result
        ((*counts, offsets),) = await self._rows(_COUNTS, part)
        result.add(zip(VERDICTS, counts, strict=True))
        if sum(counts) > offsets:
            result.recorded_twice += [offset for (offset,) in await self._rows(_TWICE, part)]
            del result.recorded_twice[OFFSETS_NAMED:]
        return int(offsets)

    async def _explain(self, part: LogRange) -> None:
        """Classify committed offsets without an outcome: not a record, counted in the ledger, lost, or a hole."""
        result = self._result
        missing = [offset for (offset,) in await self._rows(_WITHOUT_OUTCOME, part, length=len(part))]
        readable = [offset for offset in missing if offset >= self._bounds.start]
        log = await log_contents(self._settings, self._place, readable) if readable else LogContents(set(), set())
        result.not_records += len(readable) - len(log.records) - len(log.holes)
        gone = [each for each in missing if each < self._bounds.start or each in log.records or each in log.holes]
        explained = sum(offset < self._counted_to for offset in gone)
        if not self._ledger_is_exact:
            explained = min(explained, self._counted - result.expired_outcomes)
            result.expired_outcomes += explained
        named = [offset for offset in gone if offset >= self._counted_to]
        result.lost += [offset for offset in named if offset not in log.holes]
        result.holes += [offset for offset in named if offset in log.holes]
        del result.lost[OFFSETS_NAMED:], result.holes[OFFSETS_NAMED:]

    async def _rows(self, sql: str, part: LogRange, **more: int) -> list[tuple[Any, ...]]:
        topic, partition = self._place
        parameters = {"topic": topic, "partition": partition, "first": part.first, "end": part.end, **more}
        return [tuple(row) for row in await self._database.rows(sql, parameters)]
