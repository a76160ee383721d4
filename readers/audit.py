"""The audit: what became of every offset of the topic, proven from the log and the tables.

    accepted = stored + duplicates + rejected + deleted + moved + in flight     and every offset is in one of them only

Accepted are the records that were ever appended: the offsets up to the log's end, less those that never were
records: markers of transactions, and what was aborted with one. In flight is what lies at or past the committed offset
without an outcome. What is left over is lost, what is counted twice too much; the audit names the exact offsets. An
offset without an outcome at which the log has nothing any more, neither record nor marker, is a hole: an accepted event
that compaction has removed. It counts as lost.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from aiokafka import TopicPartition
from pydantic import BaseModel

from readers.log_range import LogContents, LogRange, log_contents, range_of_times
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.kafka import LogBounds
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, KEPT_FROM, LEDGER, OUTCOMES

OFFSETS_PER_QUERY = 2_000_000
"""Offsets compared at a time: about 50 MB in ClickHouse, whatever the topic's length."""

OFFSETS_EXPLAINED_AT_ONCE = 100_000
"""Offsets in memory at a time while those without an outcome are looked for in the log."""

OFFSETS_NAMED = 1_000
"""Per partition, offsets that are named; all are counted."""

_IN_PARTITION = "_topic = {topic:String} AND _partition = {partition:UInt32}"
_IN_RANGE = f"{_IN_PARTITION} AND _offset >= {{first:UInt64}} AND _offset < {{end:UInt64}}"
_RECORDED = (
    f"SELECT _offset, if(max(is_deleted), 'deleted', 'stored') AS verdict FROM {INTERACTIONS} WHERE {_IN_RANGE} "
    f"AND timestamp >= {KEPT_FROM} GROUP BY _offset "
    f"UNION DISTINCT SELECT _offset, toString(verdict) FROM {OUTCOMES} WHERE {_IN_RANGE}"
)
_COUNTS = (
    "SELECT countIf(verdict = 'stored'), countIf(verdict = 'duplicate'), countIf(verdict = 'rejected'), "
    "countIf(verdict = 'deleted'), countIf(verdict = 'moved'), "
    f"uniqExact(_offset) FROM ({_RECORDED})"
)
_TWICE = f"SELECT _offset FROM ({_RECORDED}) GROUP BY _offset HAVING count() > 1 ORDER BY _offset LIMIT {OFFSETS_NAMED}"
_WITHOUT_OUTCOME = (
    "SELECT number FROM numbers({first:UInt64}, {length:UInt64}) "
    f"WHERE number NOT IN (SELECT _offset FROM ({_RECORDED})) ORDER BY number"
)
_LEDGER = (
    f"SELECT toString(verdict), first_offset, last_offset + 1, events FROM {LEDGER} FINAL "
    f"WHERE {_IN_PARTITION} AND first_offset < {{end:UInt64}} AND last_offset >= {{first:UInt64}}"
)


COUNTER_OF_VERDICT = {
    "stored": "stored",
    "duplicate": "duplicates",
    "rejected": "rejected",
    "deleted": "deleted",
    "moved": "moved",
}
"""The ledger's verdicts, and where an audit counts them."""


class PartitionAudit(BaseModel):
    """The accounts of one partition; `lost`, `holes` and `recorded_twice` name offsets, the first thousand of them."""

    partition: int
    accepted: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    deleted: int = 0
    moved: int = 0
    """Put on the partition of their key; their copies are accepted there, and counted there."""
    in_flight: int = 0
    expired_unread: int = 0
    """Removed by the topic's retention, or by hand, before anybody had read them."""
    expired_outcomes: int = 0
    """Events of a part of the log that the ledger counts but cannot attribute."""
    not_records: int = 0
    """Offsets that hold no event: markers of transactions, and what was aborted with one. Not part of `accepted`."""
    difference: int = 0
    """Accepted less all that is accounted for: 0, or how many are lost (above 0) or recorded twice (below)."""
    lost: list[int] = []
    """Offsets of records without an outcome: the log has them, or retention has removed them."""
    holes: list[int] = []
    """Offsets without an outcome that the log has no record for any more: compaction has removed an accepted event."""
    recorded_twice: list[int] = []

    @property
    def balances(self) -> bool:
        """Whether every accepted event has exactly one outcome, or is on its way to one."""
        return not (self.difference or self.recorded_twice or self.lost or self.holes or self.expired_unread)


async def audit(
    settings: Settings,
    database: ClickHouse,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    ranges: Mapping[int, LogRange] | None = None,
) -> AsyncIterator[PartitionAudit]:
    """Audit the topic as it is now, or what was appended within a range of time, partition by partition.

    `ranges` asks for these offsets instead of times.

    The tables are read after the log's ends and the commits, so a running consumer does not disturb the accounts.
    Raises Unavailable when a store does not answer.
    """
    async with kafka.admin(settings) as admin:
        partitions = await kafka.partition_numbers(admin, settings.topic)
        ask = partial(kafka.committed_offsets, admin, settings.group, settings.topic)
        committed = await retrying("asking what is committed", ask, tries=COMMAND_ATTEMPTS)
    async with kafka.offset_reader(settings) as log:
        bounds = await kafka.log_bounds(log, settings.topic, partitions)
        for partition in partitions:
            found = bounds[partition]._replace(committed=committed.get(partition, 0))
            place = TopicPartition(settings.topic, partition)
            if committed.get(partition, 0) > found.end:
                raise TallyError(
                    f"{settings.topic}/{partition} is committed at offset {found.committed}, but its log ends at "
                    f"{found.end}: the topic was cut or created again, and cannot be audited against these tables"
                )
            asked = (ranges or {}).get(partition) or await range_of_times(log, place, found, since, until)
            yield await _PartitionAuditor(settings, place, found, asked, database).audit()


class _PartitionAuditor:
    """One partition's audit under way."""

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
        """Outcomes of lower offsets may be in the ledger only."""
        self._counted = 0
        """At most this many of them."""
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
        recorded = result.stored + result.duplicates + result.rejected + result.deleted + result.moved
        accounted = recorded + result.in_flight
        result.difference = result.accepted - accounted - result.expired_unread - result.expired_outcomes
        return result

    async def _add_ledger(self) -> None:
        """Add the outcomes that are only counted any more, if they lie wholly in what is asked for."""
        entries = await self._rows(_LEDGER, self._asked)
        self._counted_to = max((end for _, _, end, _ in entries), default=0)
        self._counted = sum(events for *_, events in entries)
        self._ledger_is_exact = all(
            self._asked.first <= first and end <= self._asked.end for _, first, end, _ in entries
        )
        if self._ledger_is_exact:
            result = self._result
            for verdict, _, _, events in entries:
                field = COUNTER_OF_VERDICT[verdict]
                setattr(result, field, getattr(result, field) + events)

    async def _add_recorded(self, part: LogRange) -> int:
        """Add what the tables hold of a range; returns how many of its offsets they hold."""
        result = self._result
        ((stored, duplicates, rejected, deleted, moved, offsets),) = await self._rows(_COUNTS, part)
        result.stored += stored
        result.duplicates += duplicates
        result.rejected += rejected
        result.deleted += deleted
        result.moved += moved
        if stored + duplicates + rejected + deleted + moved > offsets:
            result.recorded_twice += [offset for (offset,) in await self._rows(_TWICE, part)]
            del result.recorded_twice[OFFSETS_NAMED:]
        return int(offsets)

    async def _explain(self, part: LogRange) -> None:
        """Tell committed offsets without an outcome apart: never a record, counted in the ledger, lost, or a hole."""
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
