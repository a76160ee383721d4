"""Records and events without a topic, for tests of pure functions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from consumers.batch import Batch, ValidatedBatch
from consumers.claims.owners import rows_of
from consumers.events import Events
from consumers.record_headers import RecordHeaders
from consumers.records import DEFAULT_LIMITS, PlainRecord, Records
from consumers.validation import Validation
from kernels.scan_event import Columns
from kernels.scanner import scan
from runtime.log_batches import Items
from schemas.wire import encode_headers

NAMESPACE = "tenänt"
APPEND_MS = 1_800_000_000_000


def all_records(fetched: Mapping[int, Items]) -> Records:
    """Read all fetched items of any size."""
    parts: list[Records] = []
    while fetched:
        records, fetched = Records.read(fetched, DEFAULT_LIMITS)
        parts.append(records)
    return Records.joined(parts)


def validated(values: Sequence[bytes | None], **more: Any) -> ValidatedBatch:
    """Validate values at the offsets from 0 of partition 3 of topic t; `more` is in the headers."""
    headers = tuple(encode_headers(NAMESPACE, **more))
    records = [PlainRecord(at, APPEND_MS, None, value, headers) for at, value in enumerate(values)]
    return Validation("t", "default", 8).validate(Batch(all_records({3: records})))


def scanned(*values: bytes | None) -> tuple[Columns, list[bool]]:
    """Return the scanner's columns, and the rows that it accepts."""
    sizes = np.array([len(value or b"") for value in values], np.int64)
    text = np.frombuffer(b"".join(value or b"" for value in values), np.uint8)
    ends = np.cumsum(sizes)
    columns, valid = scan(text, ends - sizes, ends)
    return columns, list(map(bool, valid))


def is_sure(*values: bytes | None) -> list[bool]:
    """Return the rows that the scanner accepts."""
    return scanned(*values)[1]


def events_at(places: Sequence[tuple[int, int, str]]) -> Events:
    """Events of which only the partition, the offset and the id matter."""
    partitions, offsets, ids = zip(*places, strict=True) if places else ((), (), ())
    nothing = [0] * len(places)
    columns, _ = scanned(*[b""] * len(places))
    no = np.zeros(len(places), np.bool_)
    rows = rows_of([b"\0" * 16] * len(places), offsets, nothing, nothing, ids)
    heads = [RecordHeaders(NAMESPACE, False, False, None, None)]
    return Events(
        np.zeros(0, np.uint8),
        columns,
        np.array(partitions, np.uint32),
        rows,
        heads,
        np.array(nothing, np.int32),
        no,
        no,
        np.array(partitions, np.uint32),
    )
