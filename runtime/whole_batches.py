"""Patch of aiokafka's fetcher that returns Kafka's record batches whole.

The client parses each batch into objects, which takes longer than all other work on a record. A consumer with
`key_deserializer=whole` returns each batch as one WholeBatch instead. The client still handles checksums, aborted
transactions, control batches and positions. With another version of aiokafka than WRITTEN_FOR records are returned as
ConsumerRecords, so readers must accept both.

With `key_deserializer=every` control batches are returned, too, and with the isolation level read_uncommitted also
aborted transactions: the whole log.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiokafka import __version__
from aiokafka.consumer import fetcher
from aiokafka.record.memory_records import MemoryRecords

from runtime.metrics import WHOLE_BATCHES

WRITTEN_FOR = "0.14."

log = logging.getLogger("tally.kafka")

_private: Any = fetcher

_LENGTH_AT, _LENGTH_BYTES, _MAGIC_AT, _ATTRIBUTES_AT = 8, 4, 16, 22
_LOG_APPEND_TIME = 0x08
_OVERHEAD = _LENGTH_AT + _LENGTH_BYTES
_MAGIC = 2


class WholeBatch(NamedTuple):
    """Unparsed batch of format 2 with a valid checksum; a control batch only for consumers with `every`."""

    raw: memoryview
    offset: int
    """Offset of the first requested record; the batch may begin before it."""
    next_offset: int

    @property
    def has_append_time(self) -> bool:
        """Whether the timestamps are the broker's append time, not the producer's."""
        return bool(self.raw[_ATTRIBUTES_AT] & _LOG_APPEND_TIME)


def whole(key: Any) -> Any:
    """Return the key unchanged. As a deserializer it marks a consumer of whole batches."""
    return key


def every(key: Any) -> Any:
    """Return the key unchanged. As a deserializer it marks a consumer of whole batches and control batches."""
    return key


class _Batch:
    """Batch for the client that contains one record: itself."""

    is_control_batch = False
    """Always false, because the client skips control batches."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self.raw = raw
        self.next_offset: int = max(batch.next_offset, batch.base_offset + 1)
        """Next offset, which must not move the client back if the header claims an end before the beginning."""
        self.offset = self.next_offset - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator["_Batch"]:
        yield self


class _MemoryRecords:
    """Fetched records of the client's class, with their bytes."""

    def __init__(self, raw: Any) -> None:
        self._records = MemoryRecords(raw)
        self._raw = memoryview(raw)
        self._at = 0
        self.returns_whole = self.returns_control = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def next_batch(self) -> Any:
        """Return the next batch, whole if requested and possible."""
        batch: Any = self._records.next_batch()
        begin = self._at
        length = self._raw[begin + _LENGTH_AT : begin + _OVERHEAD]
        self._at = begin + _OVERHEAD + int.from_bytes(length, "big")
        if not self.returns_whole or self._raw[begin + _MAGIC_AT] != _MAGIC:
            return batch
        if batch.is_control_batch and not self.returns_control:
            return batch
        return _Batch(batch, self._raw[begin : self._at])


class _PartitionRecords(fetcher.PartitionRecords):
    def __init__(
        self, tp: Any, records: Any, aborted: Any, fetch_offset: Any, key_deserializer: Any, *rest: Any
    ) -> None:
        records.returns_whole = key_deserializer in (whole, every)
        records.returns_control = key_deserializer is every
        super().__init__(tp, records, aborted, fetch_offset, key_deserializer, *rest)  # type: ignore[no-untyped-call]

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if isinstance(record, _Batch):
            return WholeBatch(record.raw, self.next_fetch_offset, record.next_offset)
        return super()._consumer_record(tp, record)  # type: ignore[no-untyped-call]


def is_installed() -> bool:
    """Return whether the patch is installed, so that consumers can return whole batches."""
    return _private.PartitionRecords is _PartitionRecords


_warned_of: set[str] = set()


def install() -> None:
    """Make new consumers respect `whole` and `every`. Others are unaffected.

    With another version of aiokafka it only sets a gauge and warns once.
    """
    is_known = __version__.startswith(WRITTEN_FOR)
    WHOLE_BATCHES.set(is_known)
    if is_known:
        _private.MemoryRecords = _MemoryRecords
        _private.PartitionRecords = _PartitionRecords
    elif __version__ not in _warned_of:
        _warned_of.add(__version__)
        log.warning(
            "aiokafka %s cannot return whole record batches: records are read one by one, slower, without a bound on "
            "decompression (TALLY_BATCH_UNCOMPRESSED_BYTES) and without a check of batches. Install aiokafka %sx",
            __version__,
            WRITTEN_FOR,
        )
