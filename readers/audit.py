"""The audit: what became of every offset of the topic, proven from the log and the tables.

    accepted = stored + duplicates + rejected + in flight        and every offset is in exactly one of them

Accepted are the records that were ever appended: the offsets up to the log's end, less those that never were
records (transaction markers). In flight is what lies at or past the committed offset without an outcome. What is
left over is lost, what is counted twice too much; the audit names the exact offsets.
"""

from collections.abc import AsyncIterator, Iterator
from functools import partial

from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import BaseModel

from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.kafka import LogBounds
from runtime.retry import FEW, retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, LEDGER, OUTCOMES

OFFSETS_PER_QUERY = 2_000_000
"""So many offsets are compared at a time: about 50 MB in ClickHouse, whatever the topic's length."""

OFFSETS_ASKED = 1_000
"""Per partition, offsets without an outcome that the log is asked about; past them each counts as a lost record."""

_IN_PARTITION = "_topic = {topic:String} AND _partition = {partition:UInt32}"
_IN_RANGE = f"{_IN_PARTITION} AND _offset >= {{first:UInt64}} AND _offset < {{end:UInt64}}"
_RECORDED = (
    f"SELECT _offset, 'stored' AS verdict FROM {INTERACTIONS} WHERE {_IN_RANGE} "
    f"UNION DISTINCT SELECT _offset, toString(verdict) FROM {OUTCOMES} WHERE {_IN_RANGE}"
)
_COUNTS = (
    "SELECT countIf(verdict = 'stored'), countIf(verdict = 'duplicate'), countIf(verdict = 'rejected'), "
    f"uniqExact(_offset) FROM ({_RECORDED})"
)
_TWICE = (
    f"SELECT _offset FROM ({_RECORDED}) GROUP BY _offset HAVING count() > 1 ORDER BY _offset LIMIT {{limit:UInt64}}"
)
_WITHOUT_OUTCOME = (
    "SELECT number FROM numbers({first:UInt64}, {length:UInt64}) "
    f"WHERE number NOT IN (SELECT _offset FROM ({_RECORDED})) ORDER BY number LIMIT {{limit:UInt64}}"
)
_LEDGER = (
    f"SELECT sumIf(events, verdict = 'duplicate'), sumIf(events, verdict = 'rejected'), max(last_offset) FROM {LEDGER} "
    f"FINAL WHERE {_IN_PARTITION} HAVING count() > 0"
)


class PartitionAudit(BaseModel):
    """The accounts of one partition; `lost` and `recorded_twice` name offsets."""

    partition: int
    accepted: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    in_flight: int = 0
    not_records: int = 0
    """Offsets that hold no record: transaction markers, aborted or compacted records. Not part of `accepted`."""
    difference: int = 0
    """Accepted less all that is accounted for: 0, or how many are lost (above 0) or recorded twice (below)."""
    lost: list[int] = []
    recorded_twice: list[int] = []

    @property
    def balances(self) -> bool:
        """Whether every accepted event has exactly one outcome, or is on its way to one."""
        return self.difference == 0 and not self.recorded_twice


async def audit(settings: Settings, database: ClickHouse) -> AsyncIterator[PartitionAudit]:
    """Audit the topic as it is now, yielding partition by partition.

    The tables are read after the log's ends and the commits, so a running consumer does not disturb the accounts.
    """
    async with kafka.admin(settings) as admin:
        partitions = await kafka.partition_numbers(admin, settings.topic)
        ask = partial(kafka.committed_offsets, admin, settings.group, settings.topic)
        committed = await retrying("asking what is committed", ask, tries=FEW)
    async with kafka.offset_reader(settings) as log:
        bounds = await kafka.log_bounds(log, settings.topic, partitions, in_group=False)
        for partition in partitions:
            found = bounds[partition]._replace(committed=committed.get(partition, 0))
            yield await _Accounts(settings.topic, partition, found, database, log).audit()


class _Accounts:
    """One partition's audit under way."""

    def __init__(
        self, topic: str, partition: int, bounds: LogBounds, database: ClickHouse, log: AIOKafkaConsumer
    ) -> None:
        self._place = TopicPartition(topic, partition)
        self._bounds = bounds
        self._database = database
        self._log = log
        self._result = PartitionAudit(partition=partition)
        self._asked = 0

    async def audit(self) -> PartitionAudit:
        """Count every offset once."""
        result, bounds = self._result, self._bounds
        committed = min(bounds.committed or 0, bounds.end)
        counted_to = await self._add_ledger()
        for low, high in _ranges(0, committed):
            recorded = await self._add_recorded(low, high)
            if recorded < high - low:
                await self._explain(low, high, counted_to)
        for low, high in _ranges(committed, bounds.end):
            result.in_flight += high - low - await self._add_recorded(low, high)
        result.accepted = bounds.end - result.not_records
        accounted = result.stored + result.duplicates + result.rejected + result.in_flight
        result.difference = result.accepted - accounted
        return result

    async def _add_ledger(self) -> int:
        """Add the outcomes that are only counted any more; returns the offset behind the last of them."""
        for duplicates, rejected, last_offset in await self._rows(_LEDGER, 0, 0):
            self._result.duplicates += duplicates
            self._result.rejected += rejected
            return last_offset + 1
        return 0

    async def _add_recorded(self, low: int, high: int) -> int:
        """Add what the tables hold of a range; returns how many of its offsets they hold."""
        result = self._result
        ((stored, duplicates, rejected, offsets),) = await self._rows(_COUNTS, low, high)
        result.stored += stored
        result.duplicates += duplicates
        result.rejected += rejected
        if stored + duplicates + rejected > offsets:
            result.recorded_twice += [offset for (offset,) in await self._rows(_TWICE, low, high, limit=OFFSETS_ASKED)]
        return offsets

    async def _explain(self, low: int, high: int, counted_to: int) -> None:
        """Tell committed offsets without an outcome apart: never a record, counted in the ledger, or lost."""
        length, limit = high - low, max(0, OFFSETS_ASKED - self._asked)
        missing = [offset for (offset,) in await self._rows(_WITHOUT_OUTCOME, low, high, length=length, limit=limit)]
        self._asked += len(missing)
        for offset in missing:
            if offset >= self._bounds.start and not await self._holds_record(offset):
                self._result.not_records += 1
            elif offset >= counted_to:
                self._result.lost.append(offset)

    async def _holds_record(self, offset: int) -> bool:
        """Whether the log has a record at this very offset."""
        self._log.assign([self._place])
        self._log.seek(self._place, offset)
        found = await self._log.getmany(self._place, timeout_ms=2_000, max_records=1)
        return any(record.offset == offset for record in found.get(self._place, []))

    async def _rows(self, sql: str, first: int, end: int, **more: int) -> list[tuple[int, ...]]:
        topic, partition = self._place
        parameters = {"topic": topic, "partition": partition, "first": first, "end": end, **more}
        return [tuple(row) for row in await self._database.rows(sql, parameters)]


def _ranges(first: int, end: int) -> Iterator[tuple[int, int]]:
    for low in range(first, end, OFFSETS_PER_QUERY):
        yield low, min(low + OFFSETS_PER_QUERY, end)
