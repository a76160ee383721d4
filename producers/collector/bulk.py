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


class ScannedBatch(NamedTuple):
    """Events of a batch that the scanner accepts, one row each."""

    indexes: Sequence[int]
    """Index in the batch of each event."""
    text: Bytes
    events: Integers
    """By row: start and size of the event in `text`."""
    columns: Columns


class Bulk(NamedTuple):
    """Events of a batch, encoded as records."""

    indexes: Sequence[int]
    """Index in the batch of each event."""
    ids: list[str]
    encoded: EncodedRecords


def scan_body(body: bytes, max_bytes: int, max_events: int) -> ScannedBatch | None:
    """Scan a batch in its body. None if it is small, or if the scanner leaves any event to the validator."""
    spans = None if ID_KEY in body else split_batch(body, max_events)
    if spans is None or len(spans) < MIN_EVENTS:
        return None
    starts, ends = np.ascontiguousarray(spans[:, 0]), np.ascontiguousarray(spans[:, 1])
    sizes = ends - starts
    if sizes.max() > min(max_bytes, MAX_VERBATIM_BYTES):
        return None
    text = np.frombuffer(body, np.uint8)
    columns, sure = scan(text, starts, ends)
    if not sure.all():
        return None
    return ScannedBatch(range(len(spans)), text, np.stack([starts, sizes], axis=1), columns)


def scan_items(items: Sequence[Raw], max_bytes: int) -> ScannedBatch | None:
    """Scan the events of a batch; None if the scanner accepts none.

    The validator decides about the others, as `scan_together` says.
    """
    scanned = scan_together(items, max_bytes)
    rows = np.flatnonzero(scanned.sure)
    if not len(rows):
        return None
    events = np.stack([scanned.firsts[rows], scanned.sizes[rows]], axis=1)
    columns = scanned.columns._replace(spans=scanned.columns.spans[rows])
    return ScannedBatch(rows.tolist(), np.frombuffer(scanned.joined, np.uint8), events, columns)


def encode_bulk(scanned: ScannedBatch, partitions: int, namespace: str, headers: Sequence[tuple[str, bytes]]) -> Bulk:
    """Encode scanned events as records for a topic of `partitions` partitions."""
    ids = mint_id.many(len(scanned.events))
    hashes = hash_partition_keys(scanned.text, scanned.columns, [namespace], [None], np.zeros(len(ids), np.int32))
    raw_ids = np.frombuffer("".join(ids).encode(), np.uint8)
    outgoing = OutgoingEvents(scanned.text, scanned.events, scanned.columns.spans, raw_ids, hashes % partitions)
    key_prefix, encoded_headers = f"{namespace}:".encode(), encode_header_fields(headers)
    return Bulk(scanned.indexes, ids, encode_records(outgoing, key_prefix, encoded_headers, PRODUCER_BATCH_BYTES))
