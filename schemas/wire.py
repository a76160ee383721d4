"""Wire format of the records on the topic.

    key      namespace ":" execution_id (else idempotency key, session_id, user_id or feature_id), UTF-8
    value    the interaction as a JSON object, with `interaction_id` unless a foreign producer left it out
    headers  tally-namespace, tally-schema (format version, decimal), tally-idempotency-key,
             tally-derived-id ("1" on imported rows, replayed dead letters and copies of misplaced events),
             tally-origin-ms (on replayed dead letters and copies: first append time, ms since 1970),
             tally-deduplicate ("0": the event is never a duplicate and never an owner),
             tally-moved-from (on the copy of a misplaced event: topic/partition/offset of the original record),
             traceparent (W3C Trace Context, on records of traced requests)

A record without `tally-schema` comes from a foreign producer. Without `tally-namespace` its namespace is the consumer's
default. Partitions are chosen by murmur2 of the key, as by Kafka's Java client. An event on another partition is
misplaced: the consumer moves it (`consumers/moves.py`). docs/wire.md explains this contract.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import msgspec
from msgspec import Raw

from schemas.event_time import iso_ms
from schemas.fields import FieldKind, FieldSpec
from schemas.interaction import (
    FIELDS,
    MAX_NAMESPACE_BYTES,
    MAX_OBJECT_BYTES,
    OBJECT_FIELDS,
    Interaction,
    InteractionType,
    encode_object,
)

SCHEMA_VERSION = 2
"""Newest format version that this code reads. A record names the lowest version that suffices to read it: 2 if it must
not be deduplicated, which consumers of version 1 do not know."""

NAMESPACE_HEADER = "tally-namespace"
SCHEMA_HEADER = "tally-schema"
DERIVED_ID_HEADER = "tally-derived-id"
IDEMPOTENCY_HEADER = "tally-idempotency-key"
ORIGIN_HEADER = "tally-origin-ms"
DEDUPLICATE_HEADER = "tally-deduplicate"
MOVED_FROM_HEADER = "tally-moved-from"
TRACE_HEADER = "traceparent"
"""Header of W3C Trace Context, on records of traced requests."""

MAX_IDEMPOTENCY_BYTES = 512
_MAX_DIGITS = 15
_RECORD_FRAME_BYTES, _HEADER_FRAME_BYTES = 96, 10
"""Bytes that Kafka adds to a batch with one record, and to a header: sizes, times, offsets, counts."""
_NOT_IN_NAMESPACES = re.compile(r"[\x00-\x1f\x7f-\x9f,\ud800-\udfff]")

NULL = Raw(b"null")
_WHITESPACE = b" \t\r\n"


class PartitionKeyFields(Protocol):
    """Parts of a partition key."""

    @property
    def feature_id(self) -> str: ...
    @property
    def execution_id(self) -> str | None: ...
    @property
    def session_id(self) -> str | None: ...
    @property
    def user_id(self) -> str | None: ...


class WireEvent(PartitionKeyFields, Protocol):
    """Valid record value, with the fields that Tally's rules read by name.

    `wire_event` makes it. It has every field of `schemas.interaction.FIELDS` and the id. Objects are JSON text as sent,
    absent ones are `NULL`; `occurred_at` is text as sent.
    """

    interaction_type: list[InteractionType]
    interaction_id: str | None


_WIRE_TYPES: dict[FieldKind, Any] = {
    "text": str,
    "types": list[InteractionType],
    "integer": int,
    "float": float,
    "object": Raw,
    "time": str,
}


def _struct_field(field: FieldSpec) -> tuple[str, Any] | tuple[str, Any, Any]:
    kind = _WIRE_TYPES[field.kind]
    if field.required:
        return field.name, kind
    return (field.name, kind, NULL) if field.kind == "object" else (field.name, kind | None, None)


_struct_fields = [*map(_struct_field, FIELDS), ("interaction_id", str | None, None)]
wire_event: Callable[..., WireEvent] = cast(
    Any, msgspec.defstruct("WireEvent", _struct_fields, gc=False, omit_defaults=True, kw_only=True)
)
"""Make an event from fields given by name; optional ones may be left out."""


class ValidEvent(NamedTuple):
    """Valid event, and its `occurred_at` in ms since 1970; None for a live event."""

    event: WireEvent
    occurred_ms: int | None


FIELD_NAMES = tuple(field.name for field in FIELDS)
ACCEPTED_KEYS = ("document_id", *FIELD_NAMES, "interaction_id")
"""Keys of a record's value."""
REQUEST_KEYS = ("document_id", *FIELD_NAMES)
"""Keys of an event in a request."""


def encode_value(interaction: Interaction, interaction_id: str) -> bytes:
    """Encode an interaction as a record value. Fields that are None are left out."""
    fields = interaction.__dict__
    if type(interaction) is not Interaction:  # a record of the API, for example, has more fields
        fields = {name: fields[name] for name in FIELD_NAMES if name in fields}
    occurred_at = fields.get("occurred_at")
    if occurred_at is not None:
        fields = fields | {"occurred_at": iso_ms(occurred_at)}
    encoded = _encode(_value_of(fields, interaction_id))
    if len(encoded) > MAX_OBJECT_BYTES:
        # The model bounds the text of `encode_object`, in which some numbers are shorter (1e-05 for 0.00001).
        objects = {name: fields[name] for name in OBJECT_FIELDS if fields.get(name) is not None}
        fields = fields | {name: Raw(encode_object(value)) for name, value in objects.items()}
        encoded = _encode(_value_of(fields, interaction_id))
    return encoded


def _value_of(fields: dict[str, Any], interaction_id: str) -> object:
    """Return an object for the encoder: a struct, which is encoded in two thirds of the time of a dict.

    Fields that the model does not have (`model_copy` can add them) are for the validator to name.
    """
    try:
        return _WireValue(**fields, interaction_id=interaction_id)
    except TypeError:
        return {name: value for name, value in fields.items() if value is not None} | {"interaction_id": interaction_id}


def with_id(value: bytes, interaction_id: str) -> bytes:
    """Add an id to the value of a valid event without one, at the end, because the last of equal keys counts."""
    return value.strip(_WHITESPACE)[:-1] + b',"interaction_id":"%s"}' % interaction_id.encode()


def _plain(value: object) -> object:
    """Convert subclasses of str, int and float (numpy has some) to the type itself."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"cannot write {type(value).__name__}")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode

_WireValue: Callable[..., object] = msgspec.defstruct(
    "_WireValue",
    [*((field.name, Any, None) for field in FIELDS), ("interaction_id", str)],
    gc=False,
    omit_defaults=True,
    kw_only=True,
)


def encode_headers(
    namespace: str,
    *,
    derived_id: bool = False,
    idempotency_key: str | None = None,
    origin_ms: int | None = None,
    deduplicate: bool = True,
    traceparent: bytes | None = None,
    moved_from: str | None = None,
) -> list[tuple[str, bytes]]:
    """Return the headers of a record, as this version writes them. `origin_ms` is in ms since 1970."""
    headers = [(NAMESPACE_HEADER, namespace.encode()), (SCHEMA_HEADER, b"1" if deduplicate else b"2")]
    if derived_id:
        headers.append((DERIVED_ID_HEADER, b"1"))
    if idempotency_key:
        headers.append((IDEMPOTENCY_HEADER, idempotency_key.encode()))
    if origin_ms is not None:
        headers.append((ORIGIN_HEADER, b"%d" % origin_ms))
    if not deduplicate:
        headers.append((DEDUPLICATE_HEADER, b"0"))
    if moved_from is not None:
        headers.append((MOVED_FROM_HEADER, moved_from.encode()))
    if traceparent is not None:
        headers.append((TRACE_HEADER, traceparent))
    return headers


def record_size(key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
    """Return an upper bound of the size of an uncompressed batch with this record alone, in bytes."""
    size = _RECORD_FRAME_BYTES + len(key) + len(value)
    return size + sum(len(name) + len(content) + _HEADER_FRAME_BYTES for name, content in headers)


def decode_number(raw: bytes | None) -> int | None:
    """Read a header's decimal number below 10**15, such as a time in ms or an offset; None for other text."""
    return int(raw) if raw and raw.isdigit() and len(raw) <= _MAX_DIGITS else None


def partition_key(namespace: str, event: PartitionKeyFields, idempotency_key: str | None = None) -> bytes:
    """Return the key that decides an event's partition; an event and its possible duplicates have the same."""
    grouping = event.execution_id or idempotency_key or event.session_id or event.user_id or event.feature_id
    return f"{namespace}:{grouping}".encode()


def check_idempotency_key(key: str) -> str:
    """Return `key`; raise ValueError if it is not 1 to MAX_IDEMPOTENCY_BYTES of UTF-8."""
    if not key or len(key.encode()) > MAX_IDEMPOTENCY_BYTES:
        raise ValueError(f"an idempotency key has 1 to {MAX_IDEMPOTENCY_BYTES} bytes")
    return key


def check_namespace(namespace: str) -> str:
    """Return `namespace`; raise ValueError if it cannot be written in headers, settings and commands."""
    if not namespace or len(namespace.encode(errors="surrogatepass")) > MAX_NAMESPACE_BYTES:
        raise ValueError(f"a namespace has 1 to {MAX_NAMESPACE_BYTES} bytes")
    if namespace != namespace.strip() or _NOT_IN_NAMESPACES.search(namespace):
        raise ValueError("a namespace has no comma, no control character, and no blank at either end")
    return namespace
