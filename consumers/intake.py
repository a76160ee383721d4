"""Intake: gathers records into batches.

A batch is taken when it is full, or TALLY_BATCH_AGE_MS after the one before when the records at the broker would not
fill it. It is small enough that everything made of it stays in the processor's caches; groups of batches are stored
together (`consumers.group`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition, __version__
from aiokafka.errors import KafkaError

from consumers.batch import Batch
from consumers.records import Records, event_limits
from runtime.errors import Fatal
from runtime.faults.kafka import kafka_fault
from runtime.kafka import Record
from runtime.log_batches import Items
from runtime.metrics import RETRIES
from runtime.settings import Settings
from runtime.topic_settings import LOG_APPEND_TIME, TIMESTAMP_TYPE
from runtime.whole_batches import WRITTEN_FOR, WholeBatch

POLL_MS = 100
"""Longest wait of one poll, so that stop and revocation are noticed soon."""
WITHOUT_ASSIGNMENT_S = 1.0
"""Wait beyond a poll's own timeout, for a client that waits for an assignment."""
FILL_POLL_MS = 20
"""Longest wait for more records of a batch."""
LAST_POLLS = 2
"""Polls once a batch is due: the client fetches ahead, so the first one returns an old answer."""
MAX_RECORDS = 8_192
"""Records of a full batch: the size with the least time per record, by measurement."""
MAX_OVERFILL = 1.125
"""Largest batch as a multiple of a full one: the number of records in a record batch is known once it is read."""
MAX_BYTES = 16 * 1024 * 1024
_APPEND_TIME = 1
"""Timestamp type of a record in the client's numbering: append time."""
MAX_ITEMS = 256
"""Maximum record batches of one poll. Once they are uncompressed, those past the limits are given back."""

log = logging.getLogger("tally.worker")


class Intake:
    """Records read and not yet taken. One poll may exceed a batch; the excess stays for the next."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._max_rows = min(MAX_RECORDS, settings.batch_rows)
        self._max_bytes = min(MAX_BYTES, settings.batch_bytes)
        self._limits = event_limits(settings)
        self._max_age_s = settings.batch_age_ms / 1000
        self._polled: list[Records] = []
        self._rows = 0
        self._bytes = 0
        self._rows_per_item = float(self._max_rows)
        """Records per record batch in the last poll; at first those of a full batch."""
        self._taken_at = -math.inf
        """Time of the last `take`."""
        self._waiting: dict[TopicPartition, int] = {}
        """Records at the broker after those that were read, as of the last fetch."""
        self._generation = 0

    async def fill(self, stop: asyncio.Event) -> None:
        """Read until a batch is due, until `stop` is set, or until one poll returned nothing."""
        if not self._rows:
            await self._read(POLL_MS)
        last_polls = 0
        while self._rows and not self._is_full and not stop.is_set():
            if not self.has_full_batch():
                if last_polls == LAST_POLLS:
                    return
                await self._wait_until_due(stop)
                last_polls += 1
            if not await self._read(FILL_POLL_MS) and last_polls:
                return

    async def _wait_until_due(self, stop: asyncio.Event) -> None:
        """Let records gather at the broker, which answers each fetch with all it has.

        The records read may have waited there since the last batch was taken, so the batch's age counts from then.
        """
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), self._taken_at + self._max_age_s - time.monotonic())

    async def _read(self, wait_ms: int) -> bool:
        """Poll once; returns whether there were records."""
        generation = self._generation
        found = await self._poll(wait_ms)
        if generation != self._generation:
            self._seek_back({partition: items[0].offset for partition, items in found.items()})
        elif found:
            self._add(found)
        else:
            self._waiting.clear()
        return bool(found)

    async def _poll(self, wait_ms: int) -> dict[TopicPartition, Items]:
        try:
            # Past its own timeout the client may wait for an assignment for ever; then stop would not be noticed.
            async with asyncio.timeout(wait_ms / 1000 + WITHOUT_ASSIGNMENT_S):
                found: Any = await self._consumer.getmany(timeout_ms=wait_ms, max_records=self._max_items())
        except TimeoutError:
            return {}
        except UnicodeDecodeError as error:  # only where records come one by one
            at = {str(partition): await self._consumer.position(partition) for partition in self._consumer.assignment()}
            raise Fatal(
                f"a record's header has a name that is not UTF-8 ({error}), which aiokafka {__version__} cannot read; "
                f"it is in one of these partitions, at these offsets or after them: {at}. "
                f"Install aiokafka {WRITTEN_FOR}x"
            ) from error
        except KafkaError as error:
            fault = kafka_fault(error, "reading")
            if isinstance(fault, Fatal):
                raise fault from error
            RETRIES.labels("reading", getattr(fault, "kind", "other")).inc()
            log.warning("%s; reading again", fault)
            await asyncio.sleep(POLL_MS / 1000)
            return {}
        return {partition: items for partition, items in found.items() if items}

    def _max_items(self) -> int:
        """Return how many record batches (or records) fill the batch, by the size of the last ones."""
        return max(1, min(MAX_ITEMS, int((self._max_rows - self._rows) / self._rows_per_item)))

    @property
    def _is_full(self) -> bool:
        return self._rows >= self._max_rows or self._bytes >= self._max_bytes

    def has_full_batch(self) -> bool:
        """Whether another full batch is here or at the broker, as of the last fetch."""
        return self._rows + sum(self._waiting.values()) >= self._max_rows

    def _add(self, found: dict[TopicPartition, Items]) -> None:
        _check_times(found)
        records, unread = Records.read({partition.partition: items for partition, items in found.items()}, self._limits)
        items_read = sum(map(len, found.values())) - sum(map(len, unread.values()))
        self._rows_per_item = max(1, len(records)) / max(1, items_read)
        self._keep([*self._polled, records])
        rest = {partition: unread[partition.partition][0] for partition in found if partition.partition in unread}
        self._seek_back({partition: item.offset for partition, item in rest.items()})
        for partition, items in found.items():
            if partition in self._consumer.assignment():  # it may have been revoked meanwhile
                following = rest[partition].offset if partition in rest else _following(items[-1])
                self._waiting[partition] = max(0, (self._consumer.highwater(partition) or 0) - following)

    def _seek_back(self, firsts: dict[TopicPartition, int]) -> None:
        """Read again from these offsets, if the partitions are still assigned."""
        assigned = self._consumer.assignment()
        for partition, offset in firsts.items():
            if partition in assigned:
                self._consumer.seek(partition, offset)

    def take(self) -> Batch:
        """Return the batch of the records read so far; those past a full batch stay for the next one."""
        records = Records.joined(self._polled)
        # A small rest would be a separate batch, which costs nearly as much as a full one.
        count = self._max_rows if len(records) > self._max_rows * MAX_OVERFILL else len(records)
        self._keep([records[count:]])
        if count:
            self._taken_at = time.monotonic()
        return Batch(records[:count])

    @property
    def partitions(self) -> set[int]:
        """Partitions with records that were read and not taken yet."""
        return {number for records in self._polled for number in np.unique(records.partitions).tolist()}

    def forget(self, revoked: Iterable[TopicPartition]) -> None:
        """Drop records of revoked partitions: the partitions' next worker reads them again."""
        self._generation += 1
        gone = [partition.partition for partition in revoked]
        self._keep([records[~np.isin(records.partitions, gone)] for records in self._polled])
        self._waiting.clear()

    def _keep(self, polled: Sequence[Records]) -> None:
        self._polled = [records for records in polled if len(records)]
        self._rows, self._bytes = sum(map(len, self._polled)), sum(records.nbytes for records in self._polled)


def _following(item: WholeBatch | Record) -> int:
    return item.next_offset if isinstance(item, WholeBatch) else item.offset + 1


def _check_times(found: Mapping[TopicPartition, Items]) -> None:
    """Raise Fatal for records with their producers' times: no verdict may depend on such a time."""
    for place, items in found.items():
        for item in items:
            of_broker = item.has_append_time if isinstance(item, WholeBatch) else _is_append_time(item)
            if not of_broker:
                raise Fatal(
                    f"the record at offset {item.offset} of {place.topic}/{place.partition} has its producer's time, "
                    f"because the topic had {TIMESTAMP_TYPE}=CreateTime when it was appended: set it to "
                    f"{LOG_APPEND_TIME}. Nothing from that offset on is taken (docs/operations.md, TallyPartitionStuck)"
                )


def _is_append_time(record: Record) -> bool:
    return getattr(record, "timestamp_type", _APPEND_TIME) == _APPEND_TIME
