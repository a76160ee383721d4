"""Validation: records become events with a namespace, an id and times, or rejections with a reason."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from aiokafka.partitioner import murmur2

from consumers.batch import Batch, Event, Judged, Rejected
from runtime.kafka import Record
from schemas.dedup import dedup_key
from schemas.fast_path import validate
from schemas.identity import ID_LENGTH, derive_foreign_id, is_interaction_id
from schemas.rejection import Reason, Rejection
from schemas.wire import (
    DERIVED_ID_HEADER,
    IDEMPOTENCY_HEADER,
    NAMESPACE_HEADER,
    ORIGIN_HEADER,
    SCHEMA_HEADER,
    SCHEMA_VERSION,
    check_idempotency_key,
    check_namespace,
    partition_key,
)

UNPARSEABLE: frozenset[Reason] = frozenset(
    {"empty", "tombstone", "not_utf8", "not_json", "too_deep", "not_an_object", "bad_header"}
)
"""Rejections of records that nobody can attribute to a tenant: they belong to namespace ''."""


_MAX_DIGITS = 15

log = logging.getLogger("tally.worker")


class _IdOnly(msgspec.Struct):
    interaction_id: str = ""


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class Validation:
    """Judges whole batches of one topic."""

    def __init__(self, default_namespace: str, partitions: int) -> None:
        self._default_namespace = default_namespace
        self._partitions = partitions

    def judge(self, batch: Batch) -> Judged:
        """Judge every record, in each partition up to the first of a newer schema: that is not bad, this is old."""
        judged = Judged()
        for part in batch.slices:
            for record in part.records:
                try:
                    self._judge(record, judged)
                except _NewerSchema as newer:
                    log.error("%s", newer)
                    judged.held[part.partition] = record.offset
                    break
        return judged

    def _judge(self, record: Record, into: Judged) -> None:
        try:
            headers = self._read_headers(record)
        except _BadHeader as bad:
            rejection = Rejection("bad_header", bad.name, str(bad))
            into.rejected.append(Rejected(record, "", _id_of(record, None), rejection))
            return
        outcome = validate(record.value)
        if isinstance(outcome, Rejection):
            owner = "" if outcome.reason in UNPARSEABLE else headers.namespace
            into.rejected.append(Rejected(record, owner, _id_of(record, _salvaged_id(record.value)), outcome))
            return
        wire, occurred_ms = outcome
        if headers.foreign:
            key = partition_key(headers.namespace, wire, headers.idempotency_key)
            into.misplaced += _partition_of(key, self._partitions) != record.partition
        into.events.append(
            Event(
                partition=record.partition,
                offset=record.offset,
                append_ms=record.timestamp,
                event_ms=headers.happened_ms(record) if occurred_ms is None else occurred_ms,
                namespace=headers.namespace,
                interaction_id=_id_of(record, wire.interaction_id),
                may_repeat_id=headers.derived_id or (headers.foreign and wire.interaction_id is not None),
                wire=wire,
                key=dedup_key(
                    headers.namespace,
                    wire.execution_id,
                    wire.feature_id,
                    wire.interaction_type,
                    headers.idempotency_key,
                ),
                idempotency_key=headers.idempotency_key,
                replayed=headers.origin_ms is not None,
            )
        )

    def _read_headers(self, record: Record) -> "_Headers":
        headers = dict(record.headers)
        namespace = _text(headers, NAMESPACE_HEADER, check_namespace) or self._default_namespace
        foreign = SCHEMA_HEADER not in headers
        if not foreign:
            _check_schema(record, headers[SCHEMA_HEADER])
        return _Headers(
            namespace,
            foreign,
            DERIVED_ID_HEADER in headers,
            _text(headers, IDEMPOTENCY_HEADER, check_idempotency_key),
            _origin_ms(record, headers),
        )


class _Headers(NamedTuple):
    """What a record's headers say; `foreign` is a record that no Tally producer wrote."""

    namespace: str
    foreign: bool
    derived_id: bool
    idempotency_key: str | None
    origin_ms: int | None

    def happened_ms(self, record: Record) -> int:
        """The event time of a record that names none."""
        return record.timestamp if self.origin_ms is None else self.origin_ms


class _NewerSchema(Exception):
    pass


class _BadHeader(Exception):
    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def _partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's Java client puts a key: its murmur2, the sign bit masked off."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def _text(headers: Mapping[str, bytes | None], name: str, check: Callable[[str], str]) -> str | None:
    if name not in headers:
        return None
    try:
        return check((headers[name] or b"").decode())
    except ValueError as error:
        raise _BadHeader(name, str(error)) from None


def _origin_ms(record: Record, headers: Mapping[str, bytes | None]) -> int | None:
    if ORIGIN_HEADER not in headers:
        return None
    raw = headers[ORIGIN_HEADER] or b""
    if not raw.isdigit() or len(raw) > _MAX_DIGITS or int(raw) > record.timestamp:
        raise _BadHeader(ORIGIN_HEADER, "is no time in milliseconds before the record's own")
    return int(raw)


def _check_schema(record: Record, raw: bytes | None) -> None:
    try:
        version = int(raw or b"")
    except ValueError:
        raise _BadHeader(SCHEMA_HEADER, "is no number") from None
    if version > SCHEMA_VERSION:
        raise _NewerSchema(
            f"partition {record.partition} waits at offset {record.offset}, which has {SCHEMA_HEADER} {version}; this "
            f"version reads up to {SCHEMA_VERSION}: upgrade this consumer"
        )


def _id_of(record: Record, given: str | None) -> str:
    return given or derive_foreign_id(record.topic, record.partition, record.offset, record.timestamp)


def _salvaged_id(value: bytes | None) -> str | None:
    """The id that a rejected record carries, so that asking for it tells why it was rejected."""
    if not value:
        return None
    try:
        found = _decode_id(value).interaction_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found) == ID_LENGTH and is_interaction_id(found) else None
