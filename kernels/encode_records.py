"""Encoding of scanned events as records of Kafka's record batches (format 2), grouped by partition.

https://kafka.apache.org/documentation/#record: a record is its size, attributes, time and offset relative to the batch,
key, value and headers. Sizes and numbers are zigzag varints.
"""

from typing import NamedTuple

import numpy as np

from kernels.compiled import compiled
from kernels.scan_event import SPAN_AT, Integers
from kernels.scan_json import Bytes
from kernels.scan_texts import copy, copy_span
from kernels.wide import WIDE
from schemas.identity import ID_LENGTH

_BEFORE_ID = np.frombuffer(b'{"interaction_id":"', np.uint8)
_AFTER_ID = np.frombuffer(b'",', np.uint8)
_ADDED_BYTES = len(_BEFORE_ID) + ID_LENGTH + len(_AFTER_ID) - 1
"""Bytes that an id adds to the text of an event, of which it replaces the opening brace."""
_GROUPINGS = np.array([SPAN_AT[name] for name in ("execution_id", "session_id", "user_id", "feature_id")])
_MAX_FRAME_BYTES = 2 + 4 * 5
"""Attributes, time, and at most 5 bytes for each of four varints."""


class OutgoingEvents(NamedTuple):
    """Events to encode, one row each."""

    text: Bytes
    """Text that was scanned."""
    events: Integers
    """By row: start and size of the event's text, which begins with a brace."""
    spans: Integers
    """By row: spans of the scan (`Columns.spans`)."""
    ids: Bytes
    """Ids of all rows, one after the other."""
    partition_of: Integers
    """By row: its partition."""


class EncodedRecords(NamedTuple):
    """Records of several batches. Rows are those of the events, in their order."""

    encoded: Bytes
    batch_of: Integers
    """By row: its batch."""
    number_of: Integers
    """By row: its number in its batch, from 0."""
    partitions: Integers
    """By batch: its partition."""
    ends: Integers
    """By batch: the end of its records in `encoded`, after a 0."""


def encode_records(outgoing: OutgoingEvents, key_prefix: bytes, headers: bytes, batch_bytes: int) -> EncodedRecords:
    """Encode events as records, with their ids as first field, in batches of at most `batch_bytes` each.

    `key_prefix` precedes the grouping field in keys, `headers` are encoded with their count. A record larger than
    `batch_bytes` is a batch of its own. Allocates an upper bound of the size of the records.
    """
    rows, longest = len(outgoing.events), int(outgoing.spans[:, _GROUPINGS, 2].max(initial=0)) + len(key_prefix)
    room = int(outgoing.events[:, 1].sum()) + rows * (_ADDED_BYTES + _MAX_FRAME_BYTES + longest + len(headers)) + WIDE
    found = EncodedRecords(
        np.empty(room, np.uint8),
        np.empty(rows, np.int64),
        np.empty(rows, np.int64),
        np.empty(rows, np.int64),
        np.zeros(rows + 1, np.int64),
    )
    order = np.argsort(outgoing.partition_of, kind="stable")
    constants = np.frombuffer(key_prefix, np.uint8), np.frombuffer(headers, np.uint8)
    batches = _encode(outgoing, order, constants, batch_bytes, np.empty(longest + 2 * WIDE, np.uint8), found)
    return found._replace(partitions=found.partitions[:batches], ends=found.ends[: batches + 1])


@compiled
def _encode(
    outgoing: OutgoingEvents,
    order: Integers,
    constants: tuple[Bytes, Bytes],
    batch_bytes: int,
    key: Bytes,
    found: EncodedRecords,
) -> int:
    """Encode the events in `order`; return the number of batches. `key` has room for any key, and WIDE bytes more."""
    prefix, headers = constants
    into, batch, number, start, at = found.encoded, -1, 0, 0, 0
    for row in order:
        event, partition = outgoing.events[row], outgoing.partition_of[row]
        key_size = _write_key(outgoing.text, outgoing.spans, row, prefix, key)
        size = _record_size(number, key_size, event[1] + _ADDED_BYTES, len(headers))
        is_full = at - start + size + _MAX_FRAME_BYTES > batch_bytes and number > 0
        if batch < 0 or partition != found.partitions[batch] or is_full:
            batch, number, start = batch + 1, 0, at
            found.partitions[batch] = partition
            size = _record_size(number, key_size, event[1] + _ADDED_BYTES, len(headers))
        at = _write_varint(size, into, at)
        into[at] = into[at + 1] = 0  # no attributes, the time of the batch
        at = _write_varint(number, into, at + 2)
        at = copy(key, 0, key_size, into, _write_varint(key_size, into, at))
        at = _write_value(outgoing.text, event, outgoing.ids, row, into, at)
        at = copy(headers, 0, len(headers), into, at)
        found.batch_of[row], found.number_of[row], found.ends[batch + 1] = batch, number, at
        number += 1
    return batch + 1


@compiled
def _write_key(text: Bytes, spans: Integers, row: int, prefix: Bytes, into: Bytes) -> int:
    """Write the partition key of an event; return its size."""
    at = copy(prefix, 0, len(prefix), into, 0)
    for field in _GROUPINGS:
        if spans[row, field, 2] > 0:
            return copy_span(text, spans[row, field], into, at)
    return at


@compiled
def _record_size(number: int, key_size: int, value_size: int, headers_size: int) -> int:
    sizes = _varint_size(number) + _varint_size(key_size) + _varint_size(value_size)
    return 2 + sizes + key_size + value_size + headers_size


@compiled
def _write_value(text: Bytes, event: Integers, ids: Bytes, row: int, into: Bytes, at: int) -> int:
    """Write the size of the value, and the event's text with its id as first field; return their end."""
    at = _write_varint(event[1] + _ADDED_BYTES, into, at)
    at = copy(_BEFORE_ID, 0, len(_BEFORE_ID), into, at)
    at = copy(ids, row * ID_LENGTH, ID_LENGTH, into, at)
    at = copy(_AFTER_ID, 0, len(_AFTER_ID), into, at)
    return copy(text, event[0] + 1, event[1] - 1, into, at)


@compiled
def _varint_size(number: int) -> int:
    """Return the bytes of a zigzag varint of a number from 0 on."""
    rest, size = number >> 6, 1
    while rest > 0:
        rest, size = rest >> 7, size + 1
    return size


@compiled
def _write_varint(number: int, into: Bytes, at: int) -> int:
    """Write a number from 0 on as zigzag varint; return its end."""
    rest = number << 1
    while rest > 0x7F:
        into[at] = rest & 0x7F | 0x80
        rest, at = rest >> 7, at + 1
    into[at] = rest
    return at + 1
