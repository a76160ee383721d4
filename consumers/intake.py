"""Intake: gathers records into batches.

A batch closes when it is full, or when its oldest record has waited so long; but an old one goes on being filled, for
a while, as long as more waits at the broker than it has room for. So batches are small while the worker keeps up, which
makes events visible soon, and large when it does not, which makes them cheap: ClickHouse merges fewer parts.
"""

import asyncio
import logging
import time
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from consumers.batch import Batch, Slice
from consumers.plain_records import give_plain_records
from runtime.errors import Fatal
from runtime.faults import kafka_fault
from runtime.kafka import Record
from runtime.settings import Settings

POLL_MS = 100
"""How long one poll may wait, so that stop and revocation are noticed soon."""


WITHOUT_ASSIGNMENT_S = 1.0
LONGEST_AGES = 10
"""A batch stays open no longer than so many times its age, whatever waits: it may belong to an open transaction."""

log = logging.getLogger("tally.worker")


class Intake:
    """The records that were read and not yet taken. Its bound is one batch: reading stops when it is full."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._max_rows = settings.batch_rows
        self._max_bytes = settings.batch_bytes
        self._max_age_s = settings.batch_age_ms / 1000
        self._records: dict[TopicPartition, list[Record]] = {}
        self._rows = 0
        self._bytes = 0
        self._oldest_at = 0.0
        self._waiting: dict[TopicPartition, int] = {}
        """Records behind those that were read, as the broker said with them."""
        self._generation = 0

    async def fill(self, stop: asyncio.Event) -> None:
        """Read until a batch is due, or until `stop` is set, or until one poll brought nothing at all."""
        while not stop.is_set() and not self._is_due():
            generation = self._generation
            found = await self._poll(self._wait_ms())
            if generation != self._generation:
                self._give_back(found)
            elif found:
                self._add(found)
            elif not self._rows:
                return
            else:
                self._waiting.clear()

    def _wait_ms(self) -> int:
        if not self._rows or self._more_waits():
            return POLL_MS
        age_s = time.monotonic() - self._oldest_at
        return max(1, min(POLL_MS, int((self._max_age_s - age_s) * 1000)))

    async def _poll(self, wait_ms: int) -> dict[TopicPartition, list[Record]]:
        try:
            # Past its own timeout the client may wait for an assignment without end; then stop would not be noticed.
            async with asyncio.timeout(wait_ms / 1000 + WITHOUT_ASSIGNMENT_S):
                give_plain_records(self._consumer)
                return dict(await self._consumer.getmany(timeout_ms=wait_ms, max_records=self._max_rows - self._rows))
        except TimeoutError:
            return {}
        except UnicodeDecodeError as error:
            at = {str(partition): await self._consumer.position(partition) for partition in self._consumer.assignment()}
            raise Fatal(
                f"a record's header has a name that is not UTF-8 ({error}), which this client cannot read. "
                f"It is an unread record of one of these partitions, at these offsets or behind them: {at}"
            ) from error
        except KafkaError as error:
            fault = kafka_fault(error, "reading")
            if isinstance(fault, Fatal):
                raise fault from error
            log.warning("%s", fault)
            await asyncio.sleep(POLL_MS / 1000)
            return {}

    def _is_due(self) -> bool:
        if not self._rows:
            return False
        if self._rows >= self._max_rows or self._bytes >= self._max_bytes:
            return True
        ages = (time.monotonic() - self._oldest_at) / self._max_age_s
        return ages >= LONGEST_AGES or (ages >= 1 and not self._more_waits())

    def _more_waits(self) -> bool:
        return sum(self._waiting.values()) >= self._max_rows - self._rows

    def _add(self, found: dict[TopicPartition, list[Record]]) -> None:
        if not self._rows:
            self._oldest_at = time.monotonic()
        for partition, records in found.items():
            self._records.setdefault(partition, []).extend(records)
            self._rows += len(records)
            self._bytes += _bytes_of(records)
            if partition in self._consumer.assignment():  # it may have been taken away a moment ago
                log_end = self._consumer.highwater(partition) or 0
                self._waiting[partition] = max(0, log_end - records[-1].offset - 1)

    def _give_back(self, found: dict[TopicPartition, list[Record]]) -> None:
        """A rebalance fell into the poll: read again what is still ours, from where this read began."""
        assigned = self._consumer.assignment()
        for partition, records in found.items():
            if partition in assigned:
                self._consumer.seek(partition, records[0].offset)

    def take(self) -> Batch:
        """Hand over everything read so far."""
        slices = tuple(Slice(partition.partition, records) for partition, records in self._records.items() if records)
        self._clear()
        return Batch(slices)

    def forget(self, revoked: Iterable[TopicPartition]) -> None:
        """Drop what was read from partitions that are no longer ours; whoever gets them reads it again."""
        self._generation += 1
        for partition in revoked:
            self._records.pop(partition, None)
        self._waiting.clear()
        self._rows = sum(map(len, self._records.values()))
        self._bytes = sum(map(_bytes_of, self._records.values()))

    def _clear(self) -> None:
        self._records = {}
        self._waiting.clear()
        self._rows = self._bytes = 0


def _bytes_of(records: Iterable[Record]) -> int:
    values = filter(None, [record.value for record in records])
    keys = filter(None, [record.key for record in records])
    return sum(map(len, values)) + sum(map(len, keys))
