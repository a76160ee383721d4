"""Large batches: scanned and encoded as records by compiled code, without an object for each event."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Raw

from kernels.boundary import EncodedRecords, OutgoingEvents, encode_records, hash_partition_keys, scan
from producers.batches import encode_header_fields
from producers.collector.accepted import ID_KEY, MAX_VERBATIM_BYTES
from runtime.kafka import PRODUCER_BATCH_BYTES
from schemas.identity import mint_id

MIN_EVENTS = 128
"""Smallest batch that is encoded this way. Smaller ones share record batches with others."""
_BRACE = ord("{")


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

    The others, those that may have an id and those of more than `max_bytes` are left to the validator.
    """
    most = min(max_bytes, MAX_VERBATIM_BYTES)
    joined = b"".join([bytes(item) if len(item) <= most else b"" for item in items])
    sizes = np.array([len(item) if len(item) <= most else 0 for item in items], np.int64)
    ends = np.cumsum(sizes)
    text, firsts = np.frombuffer(joined, np.uint8), ends - sizes
    columns, sure = scan(text, firsts, ends)
    sure &= text[np.minimum(firsts, len(text) - 1)] == _BRACE
    if ID_KEY in joined:
        sure &= [ID_KEY not in bytes(item) for item in items]
    rows = np.flatnonzero(sure)
    if not len(rows):
        return None
    columns, ids = columns._replace(spans=columns.spans[rows]), mint_id.many(len(rows))
    hashes = hash_partition_keys(text, columns, [namespace], [None], np.zeros(len(rows), np.int32))
    outgoing = OutgoingEvents(
        text,
        np.stack([firsts[rows], sizes[rows]], axis=1),
        columns.spans,
        np.frombuffer("".join(ids).encode(), np.uint8),
        hashes % partitions,
    )
    encoded = encode_records(outgoing, f"{namespace}:".encode(), encode_header_fields(headers), PRODUCER_BATCH_BYTES)
    return Bulk(rows.tolist(), ids, encoded)
