"""Large batches: scanned and encoded as records by compiled code, without an object for each event."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Raw

from kernels.boundary import EncodedRecords, OutgoingEvents, encode_records, hash_partition_keys
from producers.batches import encode_header_fields
from producers.collector.accepted import scan_together
from runtime.kafka import PRODUCER_BATCH_BYTES
from schemas.identity import mint_id

MIN_EVENTS = 128
"""Smallest batch that is encoded this way. Smaller ones share record batches with others."""


class Bulk(NamedTuple):
    """Events of a batch that the scanner accepts, encoded as records."""

    indexes: list[int]
    """Index in the batch of each event."""
    ids: list[str]
    encoded: EncodedRecords


def encode_bulk(
    items: Sequence[Raw], max_bytes: int, partitions: int, namespace: str, headers: Sequence[tuple[str, bytes]]
) -> Bulk | None:
    """Encode the events that the scanner accepts; None if it accepts none.

    The validator decides about the others, as `scan_together` says.
    """
    scanned = scan_together(items, max_bytes)
    rows = np.flatnonzero(scanned.sure)
    if not len(rows):
        return None
    text, ids = np.frombuffer(scanned.joined, np.uint8), mint_id.many(len(rows))
    columns = scanned.columns._replace(spans=scanned.columns.spans[rows])
    hashes = hash_partition_keys(text, columns, [namespace], [None], np.zeros(len(rows), np.int32))
    outgoing = OutgoingEvents(
        text,
        np.stack([scanned.firsts[rows], scanned.sizes[rows]], axis=1),
        columns.spans,
        np.frombuffer("".join(ids).encode(), np.uint8),
        hashes % partitions,
    )
    encoded = encode_records(outgoing, f"{namespace}:".encode(), encode_header_fields(headers), PRODUCER_BATCH_BYTES)
    return Bulk(rows.tolist(), ids, encoded)
