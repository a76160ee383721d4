"""The one place that touches private parts of aiokafka: Kafka's own batches, handed out whole.

The client takes each batch apart into objects, which takes longer than everything else that is done with a record. A
consumer that is made with `key_deserializer=whole` gets each batch as one WholeBatch instead; checksums, aborted
transactions, control batches and positions stay the client's. With another version of aiokafka than this was written
for, records come as ConsumerRecords: who reads must take both.

With `key_deserializer=every` control batches come as well, and with the isolation level read_uncommitted those of
aborted transactions: all that there is in the log.
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
    """A batch of format 2, as it came. Its checksum is right; it is a control batch only where `every` is wanted."""

    raw: memoryview
    offset: int
    """The first record that was asked for: the batch may begin before it."""
    next_offset: int

    @property
    def has_append_time(self) -> bool:
        """Whether the broker has stamped its records, and not their producer."""
        return bool(self.raw[_ATTRIBUTES_AT] & _LOG_APPEND_TIME)


def whole(key: Any) -> Any:
    """Marks a consumer that wants whole batches; as a deserializer it changes nothing."""
    return key


def every(key: Any) -> Any:
    """Marks a consumer that wants whole batches, control batches among them; changes nothing either."""
    return key


class _Batch:
    """A batch of the client's, which has one record: itself."""

    is_control_batch = False
    """Else the client would pass over it."""

    def __init__(self, batch: Any, raw: memoryview) -> None:
        self._batch = batch
        self.raw = raw
        self.next_offset: int = max(batch.next_offset, batch.base_offset + 1)
        """A batch whose header says that it ends before it begins must not set the client back."""
        self.offset = self.next_offset - 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator["_Batch"]:
        yield self


class _MemoryRecords:
    """Fetched records as the client's own class reads them, with their bytes."""

    def __init__(self, raw: Any) -> None:
        self._records = MemoryRecords(raw)
        self._raw = memoryview(raw)
        self._at = 0
        self.gives_whole = self.gives_every = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def next_batch(self) -> Any:
        """The next batch; one of this class's when that is wanted and possible."""
        batch: Any = self._records.next_batch()
        begin = self._at
        length = self._raw[begin + _LENGTH_AT : begin + _OVERHEAD]
        self._at = begin + _OVERHEAD + int.from_bytes(length, "big")
        if not self.gives_whole or self._raw[begin + _MAGIC_AT] != _MAGIC:
            return batch
        if batch.is_control_batch and not self.gives_every:
            return batch
        return _Batch(batch, self._raw[begin : self._at])


class _PartitionRecords(fetcher.PartitionRecords):
    def __init__(
        self, tp: Any, records: Any, aborted: Any, fetch_offset: Any, key_deserializer: Any, *rest: Any
    ) -> None:
        records.gives_whole = key_deserializer in (whole, every)
        records.gives_every = key_deserializer is every
        super().__init__(tp, records, aborted, fetch_offset, key_deserializer, *rest)  # type: ignore[no-untyped-call]

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        if isinstance(record, _Batch):
            return WholeBatch(record.raw, self.next_fetch_offset, record.next_offset)
        return super()._consumer_record(tp, record)  # type: ignore[no-untyped-call]


def is_installed() -> bool:
    """Whether consumers give whole batches to those who want them."""
    return _private.PartitionRecords is _PartitionRecords


_warned_of: set[str] = set()


def install() -> None:
    """Let consumers that are made from now on heed `whole` and `every`. Nothing changes for others.

    With another version of aiokafka this changes nothing but a gauge, and warns once.
    """
    is_known = __version__.startswith(WRITTEN_FOR)
    WHOLE_BATCHES.set(is_known)
    if is_known:
        _private.MemoryRecords = _MemoryRecords
        _private.PartitionRecords = _PartitionRecords
    elif __version__ not in _warned_of:
        _warned_of.add(__version__)
        log.warning(
            "aiokafka %s is not the version that Tally reads whole record batches with (%sx): records are read one by "
            "one, slower, with neither a bound on decompression (TALLY_BATCH_UNCOMPRESSED_BYTES) nor a check of what "
            "foreign producers write into batches. Install aiokafka %sx",
            __version__,
            WRITTEN_FOR,
            WRITTEN_FOR,
        )
