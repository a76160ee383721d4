"""Validation: turns records into events with a namespace, an id and times, or rejections with a reason."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from consumers.batch import Batch, RejectedRecord, ValidatedBatch
from consumers.claims.owners import make_rows
from consumers.events import Events, LineFlags, flags_by_headers
from consumers.record_headers import (
    NO_ORIGIN,
    DecodedHeaders,
    InvalidHeaders,
    MalformedHeader,
    NewerSchema,
    RecordHeaders,
    decode_headers,
)
from consumers.records import PlainRecord, Records
from kernels.boundary import NUMBER_AT, Scanned, hash_dedup_keys, hash_partition_keys, scan_or_validate
from runtime.expansions import Expansions
from schemas.dedup import dedup_key
from schemas.identity import derive_foreign_id, id_bytes, is_interaction_id
from schemas.interaction import MAX_ID_BYTES
from schemas.rejection import Reason, Rejection
from schemas.wire import ORIGIN_HEADER

UNPARSEABLE: frozenset[Reason] = frozenset(
    {
        "empty",
        "tombstone",
        "not_utf8",
        "not_json",
        "too_deep",
        "not_an_object",
        "bad_header",
        "bad_batch",
        "batch_too_large",
    }
)
"""Reasons of rejections that cannot be attributed to a tenant: they belong to namespace ''."""

_NO_HEADERS = RecordHeaders("", False, False, None, None)
"""Placeholder for invalid headers, which no event has."""

log = logging.getLogger("tally.worker")


class _SalvagedIds(msgspec.Struct):
    """Ids read from a rejected record as far as possible, so that it can be looked up by them."""

    interaction_id: Any = None
    user_id: Any = None
    execution_id: Any = None


_decode_salvaged = msgspec.json.Decoder(_SalvagedIds).decode


class Validation:
    """Validates whole batches of one topic."""

    def __init__(
        self, topic: str, default_namespace: str, partitions: int, expansions: Expansions | None = None
    ) -> None:
        self._topic = topic
        self._default_namespace = default_namespace
        self._partitions = partitions
        self._expansions = expansions or Expansions()

    def validate(self, batch: Batch) -> ValidatedBatch:
        """Validate every record, in each partition up to the first one of a newer schema."""
        all_headers = [decode_headers(each, self._default_namespace) for each in batch.records.headers]
        held = _held_at(batch, all_headers)
        batch = batch.before(held)
        records = batch.records
        bad = _malformed(records, all_headers) | records.flawed
        values = records.values
        if bad:  # the record is invalid whatever its value
            values = values.copy()
            values[list(bad), 1] = -1
        scanned = scan_or_validate(records.text, values)
        why = scanned.rejections | bad
        rejected = [
            self._rejected(
                int(records.partitions[line]), records.at(line), all_headers[records.headers_of[line]], why[line]
            )
            for line in sorted(scanned.rejections)
        ]
        events = self._events(batch, all_headers, scanned)
        return ValidatedBatch(events, np.zeros(len(events), np.bool_), rejected, held=held)

    def refuse(self, batch: Batch, why: Rejection) -> ValidatedBatch:
        """Reject the one record of a batch without validating it: reading it or its headers may raise."""
        records, record = batch.records, batch.records.at(0)
        partition = int(records.partitions[0])
        nothing = Batch(Records(records.text, records.rows[:0], records.partitions[:0], (), (), records.headers_of[:0]))
        try:
            rejected = self._rejected(partition, record, decode_headers(record.headers, self._default_namespace), why)
        except Exception:
            derived_id = self._derived_id(partition, record.offset, record.timestamp)
            rejected = RejectedRecord(partition, record, "", derived_id, why)
        return replace(self.validate(nothing), rejected=[rejected], unprocessable=why)

    def _events(self, batch: Batch, found: list[DecodedHeaders], scanned: Scanned) -> Events:
        lines, columns = scanned.records, scanned.columns
        all_headers = [_NO_HEADERS if isinstance(each, InvalidHeaders) else each for each in found]
        headers_of, partitions = batch.records.headers_of[lines], batch.records.partitions[lines]
        offsets, append_ms = batch.records.offsets[lines], batch.records.append_ms[lines]
        origin_ms = _origins(all_headers)[headers_of]
        occurred_ms = columns.numbers[:, NUMBER_AT["occurred_at"]]
        event_ms = np.where(occurred_ms >= 0, occurred_ms, np.where(origin_ms >= 0, origin_ms, append_ms))
        for line in np.flatnonzero(~columns.has_id).tolist():
            given = self._derived_id(int(partitions[line]), int(offsets[line]), int(append_ms[line]))
            columns.ids[line] = np.frombuffer(id_bytes(given), np.uint8)
        of_outside = flags_by_headers(all_headers, headers_of, lambda each: each.derived_id)
        of_outside |= flags_by_headers(all_headers, headers_of, lambda each: each.foreign) & columns.has_id
        keyed, keys = _keys(scanned, all_headers, headers_of)
        rows = make_rows(keys, offsets, event_ms, append_ms, columns.ids)
        namespaces = [each.namespace for each in all_headers]
        idempotency_keys = [each.idempotency_key for each in all_headers]
        hashes = hash_partition_keys(scanned.text, columns, namespaces, idempotency_keys, headers_of)
        homes = self._expansions.home_partitions(hashes, partitions, offsets, self._partitions)
        return Events(scanned.text, columns, partitions, rows, all_headers, headers_of, keyed, of_outside, homes)

    def _rejected(self, partition: int, record: PlainRecord, headers: DecodedHeaders, why: Rejection) -> RejectedRecord:
        derived_id = self._derived_id(partition, record.offset, record.timestamp)
        if isinstance(headers, InvalidHeaders) or why.reason == "bad_header":
            return RejectedRecord(partition, record, "", derived_id, why)
        namespace = "" if why.reason in UNPARSEABLE else headers.namespace
        ids = _SalvagedIds() if why.reason == "too_large" and not why.field else _salvage(record.value)
        interaction_id = ids.interaction_id or derived_id
        return RejectedRecord(partition, record, namespace, interaction_id, why, ids.user_id, ids.execution_id)

    def _derived_id(self, partition: int, offset: int, append_ms: int) -> str:
        return derive_foreign_id(self._topic, partition, offset, append_ms)


def _held_at(batch: Batch, all_headers: Sequence[DecodedHeaders]) -> dict[int, int]:
    """Return by partition the offset of its first record of a newer schema."""
    is_newer = np.array([isinstance(each, NewerSchema) for each in all_headers], np.bool_)
    held = {}
    for part in batch.slices if is_newer.any() else ():
        lines = np.flatnonzero(is_newer[part.records.headers_of])
        if len(lines):
            offset = held[part.partition] = int(part.records.offsets[lines[0]])
            newer = all_headers[part.records.headers_of[lines[0]]]
            log.error("partition %d waits at offset %d, whose record has %s", part.partition, offset, newer)
    return held


def _malformed(records: Records, all_headers: Sequence[DecodedHeaders]) -> dict[int, Rejection]:
    """Return by line the rejection of records with malformed headers."""
    why = {index: each.rejection for index, each in enumerate(all_headers) if isinstance(each, MalformedHeader)}
    lines = np.flatnonzero(np.isin(records.headers_of, list(why))).tolist() if why else []
    bad = {line: why[int(records.headers_of[line])] for line in lines}
    origin_ms = _origins(all_headers)
    # The copy of a misplaced event is in another partition's log, whose broker's clock may be slower.
    origin_ms[[not isinstance(each, InvalidHeaders) and each.moved_from is not None for each in all_headers]] = -1
    if (origin_ms >= 0).any():
        too_late = np.flatnonzero(origin_ms[records.headers_of] > records.append_ms).tolist()
        bad |= dict.fromkeys(too_late, MalformedHeader(ORIGIN_HEADER, NO_ORIGIN).rejection)
    return bad


def _origins(all_headers: Sequence[DecodedHeaders]) -> npt.NDArray[np.int64]:
    known = (None if isinstance(each, InvalidHeaders) else each.origin_ms for each in all_headers)
    return np.array([-1 if origin_ms is None else origin_ms for origin_ms in known], np.int64)


def _keys(
    scanned: Scanned, all_headers: Sequence[RecordHeaders], headers_of: npt.NDArray[np.int32]
) -> tuple[LineFlags, bytes]:
    """Return flags of events that have a dedup key, and the keys of all events, concatenated."""
    keyed, keys = hash_dedup_keys(scanned.text, scanned.columns, [each.namespace for each in all_headers], headers_of)
    for line in np.flatnonzero(~keyed).tolist():
        headers = all_headers[headers_of[line]]
        key = dedup_key(headers.namespace, None, "", (), headers.idempotency_key)
        if key is not None:
            keys[line], keyed[line] = np.frombuffer(key, np.uint8), True
    if not all(each.deduplicate for each in all_headers):
        keyed &= flags_by_headers(all_headers, headers_of, lambda each: each.deduplicate)
    return keyed, keys.tobytes()


def _salvage(value: bytes | None) -> _SalvagedIds:
    try:
        found = _decode_salvaged(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _SalvagedIds()
    interaction_id = found.interaction_id
    is_id = isinstance(interaction_id, str) and is_interaction_id(interaction_id)
    return _SalvagedIds(
        interaction_id if is_id else None, _within_bounds(found.user_id), _within_bounds(found.execution_id)
    )


def _within_bounds(text: object) -> str | None:
    return text if isinstance(text, str) and len(text.encode()) <= MAX_ID_BYTES else None
