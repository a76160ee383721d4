"""Resuming after a crash: which of the records read again are stored already.

An insert is not atomic across blocks, so "everything below the highest stored offset" may have holes; and a
recreated topic counts from 0 again, so an offset alone says nothing. A record is skipped exactly when its topic,
partition, offset and id are all in one of the two tables.
"""

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition

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

    async def drop_stored(self, batch: Batch, judged: Judged) -> int:
        """Take out of `judged` what is stored already; returns how many records that were."""
        stored: set[tuple[int, int, str]] = set()
        for part in batch.slices:
            if part.partition not in self._horizons:
                self._horizons[part.partition] = await self._horizon(part.partition, part.first_offset)
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

    async def _horizon(self, partition: int, first: int) -> int:
        parameters = {"topic": self._topic, "partition": partition, "first": first}
        ((count, highest),) = await retrying("resuming", lambda: self._database.rows(_HIGHEST, parameters))
        if not count:
            return first
        ours = TopicPartition(self._topic, partition)
        end = (await retrying("resuming", lambda: kafka.end_offsets(self._consumer, [ours])))[ours]
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
