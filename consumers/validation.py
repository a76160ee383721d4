"""Validation: records become events with a namespace, an id and times, or rejections with a reason."""

from typing import NamedTuple

import msgspec
from aiokafka.partitioner import murmur2

from consumers.batch import Batch, Event, Judged, Rejected
from runtime.errors import Fatal
from runtime.kafka import Record
from schemas.fast_path import validate
from schemas.identity import ID_LENGTH, derive_foreign_id, is_interaction_id
from schemas.rejection import Reason, Rejection
from schemas.wire import (
    DERIVED_ID_HEADER,
    NAMESPACE_HEADER,
    SCHEMA_HEADER,
    SCHEMA_VERSION,
    check_namespace,
    partition_key,
)

UNPARSEABLE: frozenset[Reason] = frozenset(
    {"empty", "tombstone", "not_utf8", "not_json", "too_deep", "not_an_object", "bad_header"}
)
"""Rejections of records that nobody can attribute to a tenant: they belong to namespace ''."""


class _IdOnly(msgspec.Struct):
    interaction_id: str = ""


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class Validation:
    """Judges whole batches of one topic."""

    def __init__(self, default_namespace: str, partitions: int) -> None:
        self._default_namespace = default_namespace
        self._partitions = partitions

    def judge(self, batch: Batch) -> Judged:
        """Judge every record. Raises Fatal for a record of a newer schema: it is not bad, this worker is old."""
        judged = Judged()
        for part in batch.slices:
            for record in part.records:
                self._judge(record, judged)
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
            key = partition_key(headers.namespace, wire)
            into.misplaced += _partition_of(key, self._partitions) != record.partition
        into.events.append(
            Event(
                partition=record.partition,
                offset=record.offset,
                append_ms=record.timestamp,
                event_ms=record.timestamp if occurred_ms is None else occurred_ms,
                namespace=headers.namespace,
                interaction_id=_id_of(record, wire.interaction_id),
                may_repeat_id=headers.derived_id or (headers.foreign and wire.interaction_id is not None),
                wire=wire,
            )
        )

    def _read_headers(self, record: Record) -> "_Headers":
        headers = dict(record.headers)
        namespace = self._default_namespace
        if NAMESPACE_HEADER in headers:
            try:
                namespace = check_namespace((headers[NAMESPACE_HEADER] or b"").decode())
            except ValueError as error:
                raise _BadHeader(NAMESPACE_HEADER, str(error)) from None
        foreign = SCHEMA_HEADER not in headers
        if not foreign:
            _check_schema(record, headers[SCHEMA_HEADER])
        return _Headers(namespace, foreign, DERIVED_ID_HEADER in headers)


class _Headers(NamedTuple):
    """What a record's headers say; `foreign` is a record that no Tally producer wrote."""

    namespace: str
    foreign: bool
    derived_id: bool


class _BadHeader(Exception):
    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def _partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's Java client puts a key: its murmur2, the sign bit masked off."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


def _check_schema(record: Record, raw: bytes | None) -> None:
    try:
        version = int(raw or b"")
    except ValueError:
        raise _BadHeader(SCHEMA_HEADER, "is no number") from None
    if version > SCHEMA_VERSION:
        raise Fatal(
            f"partition {record.partition} offset {record.offset} has {SCHEMA_HEADER} {version}, this version "
            f"reads up to {SCHEMA_VERSION}: upgrade this consumer"
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
