"""Validation: records become events with a namespace, an id and times, or rejections with a reason."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from consumers.batch import Batch, Rejected, ValidatedBatch
from consumers.claims.owners import make_rows
from consumers.events import Events, Flags, RecordHeaders, flags_of_heads
from consumers.records import PlainRecord, Records
from kernels.boundary import NUMBER_AT, Headers, Scanned, hash_dedup_keys, hash_partition_keys, scan_or_validate
from runtime.expansions import Expansions
from schemas.dedup import dedup_key
from schemas.event_time import END_MS
from schemas.identity import ID_LENGTH, derive_foreign_id, id_bytes, is_interaction_id
from schemas.interaction import MAX_ID_BYTES
from schemas.letter import Origin
from schemas.rejection import Reason, Rejection
from schemas.wire import (
    DEDUPLICATE_HEADER,
    DERIVED_ID_HEADER,
    IDEMPOTENCY_HEADER,
    MOVED_FROM_HEADER,
    NAMESPACE_HEADER,
    ORIGIN_HEADER,
    SCHEMA_HEADER,
    SCHEMA_VERSION,
    TRACE_HEADER,
    check_idempotency_key,
    check_namespace,
    decode_number,
)

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
"""Rejections of records that nobody can attribute to a tenant: they belong to namespace ''."""

_NO_ORIGIN = "is no time in milliseconds before the record's own"
_NO_HEAD = RecordHeaders("", False, False, None, None)
"""In the place of one that no event has."""

log = logging.getLogger("tally.worker")


class _Salvaged(msgspec.Struct):
    """Ids read from a rejected record as far as possible, so that it can be found by them."""

    interaction_id: Any = None
    user_id: Any = None
    execution_id: Any = None


_decode_salvaged = msgspec.json.Decoder(_Salvaged).decode


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
        """Validate every record, in each partition up to the first of a newer schema: that is not bad, this is old."""
        heads = [self._head(headers) for headers in batch.records.headers]
        held = _held_at(batch, heads)
        batch = batch.before(held)
        records = batch.records
        bad = _bad_heads(records, heads) | records.flawed
        values = records.values
        if bad:  # whatever the value is, the record is not valid
            values = values.copy()
            values[list(bad), 1] = -1
        scanned = scan_or_validate(records.text, values)
        why = scanned.rejections | bad
        rejected = [
            self._rejected(int(batch.partitions[line]), records.at(line), heads[records.headers_of[line]], why[line])
            for line in sorted(scanned.rejections)
        ]
        events = self._events(batch, heads, scanned)
        return ValidatedBatch(events, np.zeros(len(events), np.bool_), rejected, held=held)

    def refuse(self, batch: Batch, why: Rejection) -> ValidatedBatch:
        """Reject the one record of a batch unseen: reading it, or its headers, may be what raised."""
        records, partition, record = batch.records, int(batch.partitions[0]), batch.records.at(0)
        nothing = Batch(Records(records.text, records.rows[:0], records.partitions[:0], (), (), records.headers_of[:0]))
        try:
            rejected = self._rejected(partition, record, self._head(record.headers), why)
        except Exception:
            derived_id = self._derived_id(partition, record.offset, record.timestamp)
            rejected = Rejected(partition, record, "", derived_id, why)
        return replace(self.validate(nothing), rejected=[rejected], unprocessable=why)

    def _events(self, batch: Batch, found: "list[RecordHeaders | _InvalidHeaders]", scanned: Scanned) -> Events:
        lines, columns = scanned.records, scanned.columns
        heads = [_NO_HEAD if isinstance(head, _InvalidHeaders) else head for head in found]
        head_of, partitions = batch.records.headers_of[lines], batch.partitions[lines]
        offsets, append_ms = batch.records.offsets[lines], batch.records.append_ms[lines]
        origin_ms = _origins(heads)[head_of]
        occurred_ms = columns.numbers[:, NUMBER_AT["occurred_at"]]
        event_ms = np.where(occurred_ms >= 0, occurred_ms, np.where(origin_ms >= 0, origin_ms, append_ms))
        for line in np.flatnonzero(~columns.has_id).tolist():
            given = self._derived_id(int(partitions[line]), int(offsets[line]), int(append_ms[line]))
            columns.ids[line] = np.frombuffer(id_bytes(given), np.uint8)
        of_outside = flags_of_heads(heads, head_of, lambda head: head.derived_id)
        of_outside |= flags_of_heads(heads, head_of, lambda head: head.foreign) & columns.has_id
        keyed, keys = _keys(scanned, heads, head_of)
        rows = make_rows(keys, offsets, event_ms, append_ms, columns.ids)
        namespaces, tokens = [head.namespace for head in heads], [head.idempotency_key for head in heads]
        hashes = hash_partition_keys(scanned.text, columns, namespaces, tokens, head_of)
        homes = self._expansions.home_partitions(hashes, partitions, offsets, self._partitions)
        return Events(scanned.text, columns, partitions, rows, heads, head_of, keyed, of_outside, homes)

    def _rejected(
        self, partition: int, record: PlainRecord, head: "RecordHeaders | _InvalidHeaders", why: Rejection
    ) -> Rejected:
        if isinstance(head, _InvalidHeaders) or why.reason == "bad_header":
            return Rejected(partition, record, "", self._derived_id(partition, record.offset, record.timestamp), why)
        namespace = "" if why.reason in UNPARSEABLE else head.namespace
        salvaged = _Salvaged() if why.reason == "too_large" and not why.field else _salvaged(record.value)
        interaction_id = salvaged.interaction_id or self._derived_id(partition, record.offset, record.timestamp)
        return Rejected(partition, record, namespace, interaction_id, why, salvaged.user_id, salvaged.execution_id)

    def _derived_id(self, partition: int, offset: int, append_ms: int) -> str:
        return derive_foreign_id(self._topic, partition, offset, append_ms)

    def _head(self, given: Headers) -> "RecordHeaders | _InvalidHeaders":
        headers = dict(given)
        foreign = SCHEMA_HEADER not in headers
        try:
            if not foreign:  # first: a newer version may allow what this one does not
                _check_schema(headers[SCHEMA_HEADER])
            namespace = _text(headers, NAMESPACE_HEADER, check_namespace) or self._default_namespace
            idempotency_key = _text(headers, IDEMPOTENCY_HEADER, check_idempotency_key)
            derived_id, origin_ms = DERIVED_ID_HEADER in headers, _origin_ms(headers)
            deduplicate, traceparent = _deduplicate(headers), headers.get(TRACE_HEADER)
            moved_from = _moved_from(headers)
            return RecordHeaders(
                namespace, foreign, derived_id, idempotency_key, origin_ms, deduplicate, traceparent, moved_from
            )
        except _InvalidHeaders as none:
            return none


def _held_at(batch: Batch, heads: "Sequence[RecordHeaders | _InvalidHeaders]") -> dict[int, int]:
    """By partition the offset of its first record of a newer schema."""
    is_newer = np.array([isinstance(head, _NewerSchema) for head in heads], np.bool_)
    held = {}
    for part in batch.slices if is_newer.any() else ():
        lines = np.flatnonzero(is_newer[part.records.headers_of])
        if len(lines):
            offset = held[part.partition] = int(part.records.offsets[lines[0]])
            newer = heads[part.records.headers_of[lines[0]]]
            log.error("partition %d waits at offset %d, which has %s", part.partition, offset, newer)
    return held


def _bad_heads(records: Records, heads: "Sequence[RecordHeaders | _InvalidHeaders]") -> dict[int, Rejection]:
    """By line, what is wrong with the headers of some."""
    why = {number: head.rejection for number, head in enumerate(heads) if isinstance(head, _MalformedHeader)}
    lines = np.flatnonzero(np.isin(records.headers_of, list(why))).tolist() if why else []
    bad = {line: why[int(records.headers_of[line])] for line in lines}
    origin_ms = _origins(heads)
    # The copy of a misplaced event lies in another partition's log, whose broker's clock may be behind.
    origin_ms[[not isinstance(head, _InvalidHeaders) and head.moved_from is not None for head in heads]] = -1
    if (origin_ms >= 0).any():
        too_late = np.flatnonzero(origin_ms[records.headers_of] > records.append_ms).tolist()
        bad |= dict.fromkeys(too_late, _MalformedHeader(ORIGIN_HEADER, _NO_ORIGIN).rejection)
    return bad


def _origins(heads: "Sequence[RecordHeaders | _InvalidHeaders]") -> npt.NDArray[np.int64]:
    known = (None if isinstance(head, _InvalidHeaders) else head.origin_ms for head in heads)
    return np.array([-1 if origin_ms is None else origin_ms for origin_ms in known], np.int64)


def _keys(scanned: Scanned, heads: Sequence[RecordHeaders], head_of: npt.NDArray[np.int32]) -> tuple[Flags, bytes]:
    """Which events may be duplicates, and the keys of all, one after the other."""
    keyed, keys = hash_dedup_keys(scanned.text, scanned.columns, [head.namespace for head in heads], head_of)
    for line in np.flatnonzero(~keyed).tolist():
        head = heads[head_of[line]]
        key = dedup_key(head.namespace, None, "", (), head.idempotency_key)
        if key is not None:
            keys[line], keyed[line] = np.frombuffer(key, np.uint8), True
    if not all(head.deduplicate for head in heads):
        keyed &= flags_of_heads(heads, head_of, lambda head: head.deduplicate)
    return keyed, keys.tobytes()


class _InvalidHeaders(Exception):
    """No event can have such headers."""


class _NewerSchema(_InvalidHeaders):
    pass


class _MalformedHeader(_InvalidHeaders):
    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection("bad_header", name, message)


def _text(headers: Mapping[str, bytes | None], name: str, check: Callable[[str], str]) -> str | None:
    if name not in headers:
        return None
    try:
        return check((headers[name] or b"").decode())
    except ValueError as error:
        raise _MalformedHeader(name, str(error)) from None


def namespace_in(headers: Headers) -> str:
    """Return the namespace that a record's headers name; '' when they name none, or none that is valid."""
    try:
        return _text(dict(headers), NAMESPACE_HEADER, check_namespace) or ""
    except _MalformedHeader:
        return ""


def _origin_ms(headers: Mapping[str, bytes | None]) -> int | None:
    if ORIGIN_HEADER not in headers:
        return None
    origin_ms = decode_number(headers[ORIGIN_HEADER])
    if origin_ms is None or origin_ms >= END_MS:
        raise _MalformedHeader(ORIGIN_HEADER, _NO_ORIGIN)
    return origin_ms


def _deduplicate(headers: Mapping[str, bytes | None]) -> bool:
    said = headers.get(DEDUPLICATE_HEADER, b"1")
    if said not in (b"0", b"1"):
        raise _MalformedHeader(DEDUPLICATE_HEADER, "is neither 0 nor 1")
    return said == b"1"


def _moved_from(headers: Mapping[str, bytes | None]) -> Origin | None:
    if MOVED_FROM_HEADER not in headers:
        return None
    try:
        return Origin.parse((headers[MOVED_FROM_HEADER] or b"").decode())
    except ValueError:
        raise _MalformedHeader(MOVED_FROM_HEADER, "is not topic/partition/offset") from None


def _check_schema(raw: bytes | None) -> None:
    version = decode_number(raw)
    if version is None:
        raise _MalformedHeader(SCHEMA_HEADER, "is no number")
    if version > SCHEMA_VERSION:
        raise _NewerSchema(
            f"{SCHEMA_HEADER} {version}; this version reads up to {SCHEMA_VERSION}: upgrade this consumer"
        )


def _salvaged(value: bytes | None) -> _Salvaged:
    try:
        found = _decode_salvaged(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Salvaged()
    interaction_id = found.interaction_id
    is_id = isinstance(interaction_id, str) and len(interaction_id) == ID_LENGTH and is_interaction_id(interaction_id)
    return _Salvaged(
        interaction_id if is_id else None, _within_bounds(found.user_id), _within_bounds(found.execution_id)
    )


def _within_bounds(text: object) -> str | None:
    return text if isinstance(text, str) and len(text.encode()) <= MAX_ID_BYTES else None
