"""Large batches: scanned and encoded as records by compiled code, without an object for each event."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Raw

from kernels.boundary import (
    Bytes,
    Columns,
    EncodedRecords,
    Integers,
    OutgoingEvents,
    encode_records,
    hash_partition_keys,
    scan,
    split_batch,
)
from producers.batches import encode_header_fields
from producers.collector.accepted import ID_KEY, MAX_VERBATIM_BYTES, scan_together
from runtime.kafka import PRODUCER_BATCH_BYTES
from schemas.identity import mint_id

MIN_EVENTS = 128
"""Smallest batch that is encoded this way. Smaller ones share record batches with others."""


class Bulk(NamedTuple):
    """Events of a batch that the scanner accepts, encoded as records."""

    indexes: Sequence[int]
    """Index in the batch of each event."""
    ids: list[str]
    encoded: EncodedRecords


class BulkOptions(NamedTuple):
    """Bounds of the events, the number of partitions, and what all records have in common."""

    max_bytes: int
    max_events: int
    partitions: int
    namespace: str
    headers: Sequence[tuple[str, bytes]]


def encode_whole(body: bytes, options: BulkOptions) -> Bulk | None:
    """Encode a batch from its body. None if it is small, or if the scanner leaves any event to the validator."""
    spans = None if ID_KEY in body else split_batch(body, options.max_events)
    if spans is None or len(spans) < MIN_EVENTS:
        return None
    starts, ends = np.ascontiguousarray(spans[:, 0]), np.ascontiguousarray(spans[:, 1])
    sizes = ends - starts
    if sizes.max() > min(options.max_bytes, MAX_VERBATIM_BYTES):
        return None
    text = np.frombuffer(body, np.uint8)
    columns, sure = scan(text, starts, ends)
    if not sure.all():
        return None
    return _encode(text, np.stack([starts, sizes], axis=1), columns, range(len(spans)), options)


def encode_items(items: Sequence[Raw], options: BulkOptions) -> Bulk | None:
    """Encode the events that the scanner accepts; None if it accepts none.

    The validator decides about the others, as `scan_together` says.
    """
    scanned = scan_together(items, options.max_bytes)
    rows = np.flatnonzero(scanned.sure)
    if not len(rows):
        return None
    events = np.stack([scanned.firsts[rows], scanned.sizes[rows]], axis=1)
    columns = scanned.columns._replace(spans=scanned.columns.spans[rows])
    return _encode(np.frombuffer(scanned.joined, np.uint8), events, columns, rows.tolist(), options)


def _encode(text: Bytes, events: Integers, columns: Columns, indexes: Sequence[int], options: BulkOptions) -> Bulk:
    namespace, ids = options.namespace, mint_id.many(len(events))
    hashes = hash_partition_keys(text, columns, [namespace], [None], np.zeros(len(events), np.int32))
    raw_ids = np.frombuffer("".join(ids).encode(), np.uint8)
    outgoing = OutgoingEvents(text, events, columns.spans, raw_ids, hashes % options.partitions)
    headers = encode_header_fields(options.headers)
    return Bulk(indexes, ids, encode_records(outgoing, f"{namespace}:".encode(), headers, PRODUCER_BATCH_BYTES))
