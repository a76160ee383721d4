"""Intake: gathers records into batches, closed by rows, bytes or age."""

import asyncio
import time
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumers.batch import Batch, Slice
from runtime.kafka import Record
from runtime.settings import Settings

POLL_MS = 100
"""How long one poll may wait, so that stop and revocation are noticed soon."""


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
        self._generation = 0

    async def fill(self, stop: asyncio.Event) -> None:
        """Read until a batch is due, or until `stop` is set, or until one poll brought nothing at all."""
        while not stop.is_set() and not self._is_due():
            wait_ms = POLL_MS
            if self._rows:
                age_s = time.monotonic() - self._oldest_at
                wait_ms = max(1, min(POLL_MS, int((self._max_age_s - age_s) * 1000)))
            generation = self._generation
            found = await self._consumer.getmany(timeout_ms=wait_ms, max_records=self._max_rows - self._rows)
            if generation != self._generation:
                self._give_back(found)
            elif found:
                self._add(found)
            elif not self._rows:
                return

    def _is_due(self) -> bool:
        if not self._rows:
            return False
        full = self._rows >= self._max_rows or self._bytes >= self._max_bytes
        return full or time.monotonic() - self._oldest_at >= self._max_age_s

    def _add(self, found: dict[TopicPartition, list[Record]]) -> None:
        if not self._rows:
            self._oldest_at = time.monotonic()
        for partition, records in found.items():
            self._records.setdefault(partition, []).extend(records)
            self._rows += len(records)
            self._bytes += sum(len(record.value or b"") + len(record.key or b"") for record in records)

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
        self._rows = sum(map(len, self._records.values()))
        if not self._rows:
            self._clear()

    def _clear(self) -> None:
        self._records = {}
        self._rows = self._bytes = 0
