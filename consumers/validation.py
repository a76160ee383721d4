"""Validation: records become events with a namespace, an id and times, or rejections with a reason."""

from collections.abc import Mapping

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
        headers = dict(record.headers)
        try:
            namespace = self._namespace(headers)
        except ValueError as error:
            rejection = Rejection("bad_header", NAMESPACE_HEADER, str(error))
            into.rejected.append(Rejected(record, "", _id_of(record, None), rejection))
            return
        foreign = SCHEMA_HEADER not in headers
        if not foreign:
            _refuse_newer(record, headers[SCHEMA_HEADER])
        outcome = validate(record.value)
        if isinstance(outcome, Rejection):
            owner = "" if outcome.reason in UNPARSEABLE else namespace
            into.rejected.append(Rejected(record, owner, _id_of(record, _salvaged_id(record.value)), outcome))
            return
        wire, occurred_ms = outcome
        if foreign and murmur2(partition_key(namespace, wire)) % self._partitions != record.partition:
            into.misplaced += 1
        into.events.append(
            Event(
                partition=record.partition,
                offset=record.offset,
                append_ms=record.timestamp,
                event_ms=record.timestamp if occurred_ms is None else occurred_ms,
                namespace=namespace,
                interaction_id=_id_of(record, wire.interaction_id),
                derived_id=DERIVED_ID_HEADER in headers,
                wire=wire,
            )
        )

    def _namespace(self, headers: Mapping[str, bytes]) -> str:
        raw = headers.get(NAMESPACE_HEADER)
        return self._default_namespace if raw is None else check_namespace((raw or b"").decode())


def _refuse_newer(record: Record, raw: bytes) -> None:
    try:
        version = int(raw)
    except (TypeError, ValueError):
        version = 0
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
