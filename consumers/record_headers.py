"""Headers of records: decoded, or found to be invalid."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kernels.boundary import Headers
from schemas.event_time import END_MS
from schemas.letter import Origin
from schemas.rejection import Rejection
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

NO_ORIGIN = "is not a time in milliseconds before the record's own"


class RecordHeaders(NamedTuple):
    """Decoded headers of a record."""

    namespace: str
    foreign: bool
    """Whether a foreign producer wrote the record."""
    derived_id: bool
    idempotency_key: str | None
    origin_ms: int | None
    """First append time of a replayed dead letter."""
    deduplicate: bool = True
    """False: the event is stored whatever it repeats, and no other event is a duplicate of it."""
    traceparent: bytes | None = None
    """Trace that the record belongs to."""
    moved_from: Origin | None = None
    """Place of the original record, for the copy of a misplaced event."""


class InvalidHeaders(Exception):
    """Headers that no event of this version can have."""


class NewerSchema(InvalidHeaders):
    """Headers of a newer schema."""


class MalformedHeader(InvalidHeaders):
    """Header with an invalid value, for which the record is rejected."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.rejection = Rejection("bad_header", name, message)


DecodedHeaders = RecordHeaders | InvalidHeaders


def decode_headers(given: Headers, default_namespace: str) -> DecodedHeaders:
    """Decode the headers of a record."""
    headers = dict(given)
    foreign = SCHEMA_HEADER not in headers
    try:
        if not foreign:  # first: a newer version may allow what this one does not
            _check_schema(headers[SCHEMA_HEADER])
        return RecordHeaders(
            namespace=_text(headers, NAMESPACE_HEADER, check_namespace) or default_namespace,
            foreign=foreign,
            derived_id=DERIVED_ID_HEADER in headers,
            idempotency_key=_text(headers, IDEMPOTENCY_HEADER, check_idempotency_key),
            origin_ms=_origin_ms(headers),
            deduplicate=_deduplicate(headers),
            traceparent=headers.get(TRACE_HEADER),
            moved_from=_moved_from(headers),
        )
    except InvalidHeaders as invalid:
        return invalid


def _text(headers: Mapping[str, bytes | None], name: str, check: Callable[[str], str]) -> str | None:
    if name not in headers:
        return None
    try:
        return check((headers[name] or b"").decode())
    except ValueError as error:
        raise MalformedHeader(name, str(error)) from None


def namespace_in(headers: Headers) -> str:
    """Return the namespace that a record's headers name; '' when they name none, or none that is valid."""
    try:
        return _text(dict(headers), NAMESPACE_HEADER, check_namespace) or ""
    except MalformedHeader:
        return ""


def _origin_ms(headers: Mapping[str, bytes | None]) -> int | None:
    if ORIGIN_HEADER not in headers:
        return None
    origin_ms = decode_number(headers[ORIGIN_HEADER])
    if origin_ms is None or origin_ms >= END_MS:
        raise MalformedHeader(ORIGIN_HEADER, NO_ORIGIN)
    return origin_ms


def _deduplicate(headers: Mapping[str, bytes | None]) -> bool:
    said = headers.get(DEDUPLICATE_HEADER, b"1")
    if said not in (b"0", b"1"):
        raise MalformedHeader(DEDUPLICATE_HEADER, "is neither 0 nor 1")
    return said == b"1"


def _moved_from(headers: Mapping[str, bytes | None]) -> Origin | None:
    if MOVED_FROM_HEADER not in headers:
        return None
    try:
        return Origin.parse((headers[MOVED_FROM_HEADER] or b"").decode())
    except ValueError:
        raise MalformedHeader(MOVED_FROM_HEADER, "is not topic/partition/offset") from None


def _check_schema(raw: bytes | None) -> None:
    version = decode_number(raw)
    if version is None:
        raise MalformedHeader(SCHEMA_HEADER, "is not a number")
    if version > SCHEMA_VERSION:
        raise NewerSchema(f"{SCHEMA_HEADER} {version}; this version reads up to {SCHEMA_VERSION}: upgrade this worker")
