"""Resuming after a crash: which of the records read again are stored already.

An insert is not atomic across blocks, so "everything below the highest stored offset" may have holes; and a
recreated topic counts from 0 again, so an offset alone says nothing. A record is skipped exactly when its topic,
partition, offset and id are all in one of the two tables.
"""

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer

from consumers.batch import Batch, Event, Judged, Rejected
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Fatal
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES

_BOTH_TABLES = " UNION ALL ".join(
    f"SELECT _partition, _offset, interaction_id FROM {table} "
    "WHERE _topic = {topic:String} AND _partition = {partition:UInt32} AND _offset >= {first:UInt64}"
    for table in (INTERACTIONS, OUTCOMES)
)
_HIGHEST = f"SELECT count(), max(_offset) FROM ({_BOTH_TABLES})"
_STORED = f"SELECT _offset, interaction_id FROM ({_BOTH_TABLES}) WHERE _offset < {{next:UInt64}}"


class Resume:
    """Knows, per assigned partition, up to which offset stored records may lie ahead of the committed one.

    Past that horizon nothing is asked any more; before it, one query a batch, so memory is bounded by a batch
    however far the tables are ahead.
    """

    def __init__(self, topic: str, database: ClickHouse, consumer: AIOKafkaConsumer) -> None:
        self._topic = topic
        self._database = database
        self._consumer = consumer
        self._horizons: dict[int, int] = {}
        """Partition -> first offset past everything stored."""

    def forget(self, partitions: Iterable[int]) -> None:
        """These are no longer ours: what is stored will have to be asked anew."""
        for partition in partitions:
            self._horizons.pop(partition, None)

    async def prepare(self, partitions: Iterable[int]) -> None:
        """Look at newly assigned partitions: is the log still what was committed, and how far are the tables?

        Raises Fatal when records expired unread, or when the topic is not the one that is stored.
        """
        for partition in partitions:
            if partition not in self._horizons:
                committed = await self._check_log(partition)
                self._horizons[partition] = await self._horizon(partition, committed)

    async def drop_stored(self, batch: Batch, judged: Judged) -> int:
        """Take out of `judged` what is stored already; returns how many records that were."""
        await self.prepare(part.partition for part in batch.slices)
        stored: set[tuple[int, int, str]] = set()
        for part in batch.slices:
            if part.first_offset < self._horizons[part.partition]:
                stored |= await self._stored(part.partition, part.first_offset, part.next_offset)
        if not stored:
            return 0

        def is_new(item: Event | Rejected) -> bool:
            return (item.partition, item.offset, item.interaction_id) not in stored

        before = len(judged.events) + len(judged.rejected)
        judged.events = list(filter(is_new, judged.events))
        judged.rejected = list(filter(is_new, judged.rejected))
        return before - len(judged.events) - len(judged.rejected)

    async def _check_log(self, partition: int) -> int:
        """The committed offset, 0 for none. The client itself would go on at the log's start without a word."""
        bounds = await retrying("resuming", lambda: kafka.log_bounds(self._consumer, self._topic, partition))
        if bounds.committed is None:
            return 0
        where = f"{self._topic}/{partition} is committed at offset {bounds.committed}"
        if bounds.committed < bounds.start:
            raise Fatal(
                f"{where}, but its log begins at {bounds.start}: {bounds.start - bounds.committed} offsets expired "
                "unread. Keep the topic longer (retention.ms); to go on without them use another TALLY_GROUP"
            )
        if bounds.committed > bounds.end:
            raise Fatal(
                f"{where}, but its log ends at {bounds.end}: the topic was cut or created anew. "
                "Use another TALLY_GROUP and TALLY_DATABASE, or another TALLY_TOPIC"
            )
        return bounds.committed

    async def _horizon(self, partition: int, first: int) -> int:
        parameters = {"topic": self._topic, "partition": partition, "first": first}
        ((count, highest),) = await retrying("resuming", lambda: self._database.rows(_HIGHEST, parameters))
        if not count:
            return first
        end = (await retrying("resuming", lambda: kafka.log_bounds(self._consumer, self._topic, partition))).end
        if highest >= end:
            raise Fatal(
                f"{self._topic}/{partition} ends at offset {end}, but offset {highest} of it is stored: the topic was "
                "cut or created anew. Use another TALLY_TOPIC, or another TALLY_DATABASE for the new one"
            )
        return int(highest) + 1

    async def _stored(self, partition: int, first: int, following: int) -> set[tuple[int, int, str]]:
        parameters = {"topic": self._topic, "partition": partition, "first": first, "next": following}
        rows = await retrying("resuming", lambda: self._database.rows(_STORED, parameters))
        return {(partition, int(offset), interaction_id) for offset, interaction_id in rows}
