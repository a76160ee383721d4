"""Validation: records become events with a namespace, an id and times, or rejections with a reason."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from consumers.batch import Batch, Event, Judged, Rejected
from runtime.kafka import Record
from runtime.partitioner import partition_of
from schemas.dedup import dedup_key
from schemas.fast_path import validate_all
from schemas.identity import ID_LENGTH, derive_foreign_id, is_interaction_id
from schemas.interaction import MAX_NAMESPACE_BYTES
from schemas.rejection import Reason, Rejection
from schemas.wire import (
    DERIVED_ID_HEADER,
    IDEMPOTENCY_HEADER,
    NAMESPACE_HEADER,
    ORIGIN_HEADER,
    SCHEMA_HEADER,
    SCHEMA_VERSION,
    WireEvent,
    check_idempotency_key,
    check_namespace,
    partition_key,
)

UNPARSEABLE: frozenset[Reason] = frozenset(
    {"empty", "tombstone", "not_utf8", "not_json", "too_deep", "not_an_object", "bad_header"}
)
"""Rejections of records that nobody can attribute to a tenant: they belong to namespace ''."""


KNOWN_HEADERS = 1_024
"""Headers of records that are remembered, read: nearly all records of a tenant have the same."""

_SHARED_HEADERS = frozenset({NAMESPACE_HEADER, SCHEMA_HEADER, DERIVED_ID_HEADER})
_MAX_DIGITS = 15

log = logging.getLogger("tally.worker")


class _IdOnly(msgspec.Struct):
    interaction_id: str = ""


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class Validation:
    """Judges whole batches of one topic."""

    def __init__(self, topic: str, default_namespace: str, partitions: int) -> None:
        self._topic = topic
        self._default_namespace = default_namespace
        self._partitions = partitions
        self._known_headers: dict[tuple[tuple[str, bytes], ...], _Headers] = {}

    def judge(self, batch: Batch) -> Judged:
        """Judge every record, in each partition up to the first of a newer schema: that is not bad, this is old."""
        judged = Judged()
        for part in batch.slices:
            outcomes = validate_all([record.value for record in part.records])
            for record, outcome in zip(part.records, outcomes, strict=True):
                try:
                    headers = self._headers(record)
                except _NewerSchema as newer:
                    log.error("partition %d waits at offset %d, which has %s", part.partition, record.offset, newer)
                    judged.held[part.partition] = record.offset
                    break
                except _BadHeader as bad:
                    rejection = Rejection("bad_header", bad.name, str(bad))
                    self._reject(part.partition, record, "", None, rejection, judged)
                    continue
                if isinstance(outcome, Rejection):
                    namespace = "" if outcome.reason in UNPARSEABLE else headers.namespace
                    self._reject(part.partition, record, namespace, _salvaged_id(record.value), outcome, judged)
                else:
                    judged.events.append(self._event(part.partition, record, headers, *outcome))
                    if headers.foreign:
                        judged.misplaced += self._is_misplaced(judged.events[-1])
        return judged

    def _event(
        self, partition: int, record: Record, headers: "_Headers", wire: WireEvent, occurred_ms: int | None
    ) -> Event:
        namespace, foreign, derived_id, idempotency_key, origin_ms = headers
        append_ms = record.timestamp
        if occurred_ms is None:
            occurred_ms = append_ms if origin_ms is None else origin_ms
        interaction_id = wire.interaction_id
        return Event(
            partition,
            record.offset,
            append_ms,
            occurred_ms,
            namespace,
            interaction_id or self._derived_id(partition, record),
            derived_id or (foreign and interaction_id is not None),
            wire,
            dedup_key(namespace, wire.execution_id, wire.feature_id, wire.interaction_type, idempotency_key),
            idempotency_key,
            origin_ms is not None,
        )

    def _is_misplaced(self, event: Event) -> bool:
        key = partition_key(event.namespace, event.wire, event.idempotency_key)
        return partition_of(key, self._partitions) != event.partition

    def _reject(
        self, partition: int, record: Record, namespace: str, given: str | None, rejection: Rejection, into: Judged
    ) -> None:
        interaction_id = given or self._derived_id(partition, record)
        into.rejected.append(Rejected(partition, record, namespace, interaction_id, rejection))

    def _derived_id(self, partition: int, record: Record) -> str:
        return derive_foreign_id(self._topic, partition, record.offset, record.timestamp)

    def _headers(self, record: Record) -> "_Headers":
        all_headers = tuple(record.headers)
        known = self._known_headers.get(all_headers)
        if known is not None:
            return known
        headers = self._read_headers(record)
        if _may_come_again(all_headers):
            if len(self._known_headers) >= KNOWN_HEADERS:
                self._known_headers.clear()
            self._known_headers[all_headers] = headers
        return headers

    def _read_headers(self, record: Record) -> "_Headers":
        headers = dict(record.headers)
        foreign = SCHEMA_HEADER not in headers
        if not foreign:  # first: a newer version may allow what this one does not
            _check_schema(headers[SCHEMA_HEADER])
        namespace = _text(headers, NAMESPACE_HEADER, check_namespace) or self._default_namespace
        return _Headers(
            namespace,
            foreign,
            DERIVED_ID_HEADER in headers,
            _text(headers, IDEMPOTENCY_HEADER, check_idempotency_key),
            _origin_ms(record, headers),
        )


def _may_come_again(headers: Iterable[tuple[str, bytes]]) -> bool:
    """Whether other records are likely to have the same ones. Few and small, so that memory is bounded."""
    return all(name in _SHARED_HEADERS and len(value or b"") <= MAX_NAMESPACE_BYTES for name, value in headers)


class _Headers(NamedTuple):
    """What a record's headers say; `foreign` is a record that no Tally producer wrote."""

    namespace: str
    foreign: bool
    derived_id: bool
    idempotency_key: str | None
    origin_ms: int | None


class _NewerSchema(Exception):
    pass


class _BadHeader(Exception):
    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


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


def _check_schema(raw: bytes | None) -> None:
    if not raw or not raw.isdigit() or len(raw) > _MAX_DIGITS:
        raise _BadHeader(SCHEMA_HEADER, "is no number")
    version = int(raw)
    if version > SCHEMA_VERSION:
        raise _NewerSchema(
            f"{SCHEMA_HEADER} {version}; this version reads up to {SCHEMA_VERSION}: upgrade this consumer"
        )


def _salvaged_id(value: bytes | None) -> str | None:
    """The id that a rejected record carries, so that asking for it tells why it was rejected."""
    if not value:
        return None
    try:
        found = _decode_id(value).interaction_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if len(found) == ID_LENGTH and is_interaction_id(found) else None
