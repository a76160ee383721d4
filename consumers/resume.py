"""Resume after a crash: finds which of the records that are read again are stored already.

An insert is not atomic across blocks, so "everything below the highest stored offset" may have holes. A recreated topic
counts from 0 again, so an offset alone does not identify a record. A record is skipped exactly when its topic,
partition, offset and id are all in one of the two tables.
"""

from collections.abc import Container, Iterable, Mapping
from functools import partial

import numpy as np
from aiokafka import AIOKafkaConsumer

from consumers.batch import Batch, ValidatedBatch
from consumers.claims.client import Fenced
from consumers.claims.owners import id_of
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Fatal
from runtime.kafka import LogBounds
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES


def _both_tables(condition: str) -> str:
    selects = (
        f"SELECT _partition, _offset, interaction_id, {table == INTERACTIONS} AS has_row FROM {table} "
        f"WHERE _topic = {{topic:String}} AND {condition}"
        for table in _TABLES
    )
    return " UNION ALL ".join(selects)


_TABLES = (INTERACTIONS, OUTCOMES)

# The least of all first offsets lets the index skip older rows; the array has each partition's own.
_FROM_FIRST = (
    "_partition IN {partitions:Array(UInt32)} AND _offset >= {least:UInt64} "
    "AND _offset >= {firsts:Array(UInt64)}[indexOf({partitions:Array(UInt32)}, _partition)]"
)
_HIGHEST = f"SELECT _partition, max(_offset) FROM ({_both_tables(_FROM_FIRST)}) GROUP BY _partition"
_STORED = (
    f"SELECT _offset, interaction_id, has_row FROM ("
    f"{_both_tables('_partition = {partition:UInt32} AND _offset >= {first:UInt64} AND _offset < {next:UInt64}')})"
)


class Resume:
    """Horizon of each assigned partition: the offset below which records past the commit may be stored.

    Below the horizon each batch is looked up by one query, past it none is: memory is bounded by a batch, however far
    the tables are ahead of the commit.
    """

    def __init__(
        self, topic: str, database: ClickHouse, consumer: AIOKafkaConsumer, offset_reader: AIOKafkaConsumer
    ) -> None:
        self._topic = topic
        self._database = database
        self._consumer = consumer
        self._offset_reader = offset_reader
        self._horizons: dict[int, int] = {}
        """Partition -> first offset past everything stored."""
        self._log_ends: dict[int, int] = {}
        self._next: dict[int, int] = {}
        """Partition -> offset that its next record should have; there may be a transaction marker instead."""
        self._suspected: dict[int, int] = {}
        """Partition -> offset of its next record, when its log was seen to begin past that."""
        self._times_forgotten = 0

    def forget(self, partitions: Iterable[int]) -> None:
        """Forget partitions: their horizons are looked up again when they are assigned."""
        self._times_forgotten += 1
        for partition in partitions:
            for known in (self._horizons, self._log_ends, self._next, self._suspected):
                known.pop(partition, None)

    def next_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the offset that the next record should have, of those partitions that are prepared."""
        return {partition: self._next[partition] for partition in partitions if partition in self._next}

    def log_end(self, partition: int) -> int:
        """Return the end of the partition's log when it was assigned. Raises Fenced when it has been revoked."""
        if partition not in self._log_ends:
            raise Fenced(f"partition {partition} went to another worker while its records were processed")
        return self._log_ends[partition]

    def expect_stored(self, batch: Batch) -> None:
        """Move the horizons past a batch that may be partly stored. Raises Fenced."""
        for part in batch.slices:
            self._horizons[part.partition] = max(self._horizon(part.partition), part.next_offset)

    def _horizon(self, partition: int) -> int:
        self.log_end(partition)
        return self._horizons[partition]

    async def check_continuity(self, batch: Batch) -> None:
        """Raise Fatal when records between the last batch and this one expired: the client skips them silently."""
        for part in batch.slices:
            if part.first_offset > self._next.get(part.partition, part.first_offset):
                bounds = (await self._log_bounds([part.partition]))[part.partition]
                _check_expired(f"{self._topic}/{part.partition}", bounds.start, self._next[part.partition])
            self._next[part.partition] = part.next_offset

    def check_expired(self, starts: Mapping[int, int], polled: Container[int]) -> None:
        """Raise Fatal when a partition's log begins past its next record: the records between expired unread.

        Partitions with `polled` records that are not taken yet are left out. It raises at the second check in
        a row, because the client may still return records that it fetched before they expired.
        """
        for partition, start in starts.items():
            following = self._next.get(partition)
            if following is None or start <= following or partition in polled:
                self._suspected.pop(partition, None)
            elif self._suspected.get(partition) != following:
                self._suspected[partition] = following
            else:
                _check_expired(f"{self._topic}/{partition}", start, following)

    async def prepare(self, partitions: Iterable[int]) -> None:
        """Look up the horizons of newly assigned partitions, and compare their logs with commits and tables.

        Raises Fatal when records expired unread, or when the topic is not the one that is stored.
        """
        fresh = sorted(set(partitions) - set(self._horizons))
        if not fresh:
            return
        times_forgotten = self._times_forgotten
        bounds = await self._log_bounds(fresh)
        for partition in fresh:
            _check_log(f"{self._topic}/{partition}", bounds[partition])
        firsts = {partition: bounds[partition].committed or 0 for partition in fresh}
        highest = await self._highest_stored(firsts)
        if times_forgotten != self._times_forgotten:
            return  # a rebalance came in between: another worker may have continued from here
        for partition in fresh:
            self._horizons[partition] = highest.get(partition, firsts[partition] - 1) + 1
            self._log_ends[partition] = bounds[partition].end
            self._next[partition] = (
                bounds[partition].start if bounds[partition].committed is None else firsts[partition]
            )
        # Log ends are read again after the tables: a worker that has just lost the partition may store new records.
        if any(offset >= bounds[partition].end for partition, offset in highest.items()):
            _check_stored(self._topic, highest, await self._log_bounds(fresh))

    async def _log_bounds(self, partitions: list[int]) -> dict[int, LogBounds]:
        ask = partial(kafka.log_bounds, self._offset_reader, self._topic, partitions, member=self._consumer)
        return await retrying("resuming", ask)

    async def drop_stored(self, batch: Batch, validated: ValidatedBatch) -> int:
        """Remove records with an outcome from `validated`, flag events with a row as done, and return their number.

        Flagged events stay in `validated`. Raises Fenced for a partition that has been revoked.
        """
        recorded: dict[tuple[int, int, str], bool] = {}
        for part in batch.slices:
            if part.first_offset < self._horizon(part.partition):
                recorded |= await self._recorded(part.partition, part.first_offset, part.next_offset)
        if not recorded:
            return 0

        events = validated.events
        places = zip(events.partitions.tolist(), events.offsets.tolist(), map(id_of, events.rows), strict=True)
        has_row = [recorded.get(place) for place in places]
        has_outcome = np.array([each is False for each in has_row], np.bool_)
        done = validated.done | np.array([each is True for each in has_row], np.bool_)
        rejected = [
            each for each in validated.rejected if (each.partition, each.offset, each.interaction_id) not in recorded
        ]
        found = np.count_nonzero(done & ~validated.done) + np.count_nonzero(has_outcome)
        found += len(validated.rejected) - len(rejected)
        validated.events, validated.done, validated.rejected = events[~has_outcome], done[~has_outcome], rejected
        return int(found)

    async def _highest_stored(self, firsts: dict[int, int]) -> dict[int, int]:
        """Return each partition's highest stored offset, from `firsts` on; partitions without any are left out."""
        parameters = {
            "topic": self._topic,
            "partitions": list(firsts),
            "firsts": list(firsts.values()),
            "least": min(firsts.values()),
        }
        rows = await retrying("resuming", partial(self._database.rows, _HIGHEST, parameters))
        return {int(partition): int(offset) for partition, offset in rows}

    async def _recorded(self, partition: int, first: int, following: int) -> dict[tuple[int, int, str], bool]:
        """Return the recorded places and ids in a range of offsets, and whether each has a row in `interactions`."""
        parameters = {"topic": self._topic, "partition": partition, "first": first, "next": following}
        rows = await retrying("resuming", partial(self._database.rows, _STORED, parameters))
        return {(partition, int(offset), interaction_id): bool(has_row) for offset, interaction_id, has_row in rows}


def _check_log(name: str, bounds: LogBounds) -> None:
    """Raise Fatal when the log does not hold the committed offset: the client would silently skip to its start."""
    if bounds.committed is None:
        return
    _check_expired(name, bounds.start, bounds.committed)
    if bounds.committed > bounds.end:
        raise Fatal(
            f"{name} is committed at offset {bounds.committed}, but its log ends at {bounds.end}: the topic was "
            "truncated or recreated. Use another TALLY_GROUP and TALLY_DATABASE, or another TALLY_TOPIC"
        )


def _check_expired(name: str, start: int, following: int) -> None:
    """Raise Fatal when a partition's log begins past the next offset to read."""
    if following < start:
        raise Fatal(
            f"{name}: the next record to read is at offset {following}, but its log begins at {start}: "
            f"{start - following} offsets expired unread. Keep the topic longer (retention.ms); "
            "to continue without them use another TALLY_GROUP"
        )


def _check_stored(topic: str, highest: dict[int, int], bounds: dict[int, LogBounds]) -> None:
    for partition, offset in highest.items():
        if offset >= bounds[partition].end:
            raise Fatal(
                f"{topic}/{partition} ends at offset {bounds[partition].end}, but offset {offset} of it is stored: the "
                "topic was truncated or recreated. Use another TALLY_TOPIC, or another TALLY_DATABASE for the new one"
            )
