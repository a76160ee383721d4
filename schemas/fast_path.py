"""The fast path: says yes to nearly every event in about a microsecond, and leaves the rest to the judge.

It may say yes only where the judge says yes, and must then give the same values. It never says no.
"""

import re

import msgspec
from msgspec import Raw

from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.interaction import MAX_OBJECT_BYTES
from schemas.json_bounds import MAX_DEPTH
from schemas.judge import judge
from schemas.rejection import Rejection
from schemas.wire import NULL, Judged, WireEvent

_decode_event = msgspec.json.Decoder(WireEvent).decode
_decode_object = msgspec.json.Decoder(dict).decode

_ESCAPED_KEY_LETTER = re.compile(rb"\\u00(?:5[fF]|6[1-9a-fA-F]|7[0-9aA])")

_NOT_SURE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def validate(value: bytes | None) -> Judged | Rejection:
    """Decide about one record value, the fast way where that is safe."""
    return decode_fast(value) or judge(value)


def decode_fast(value: bytes | None) -> Judged | None:
    """The event in `value`, or None when only the judge can tell."""
    if value is None:
        return None
    try:
        event = _decode_event(value)
        if _may_repeat_an_object(value):
            return None
        if event.metadata is not NULL:
            _check_object(event.metadata)
        if event.query_snapshot is not NULL:
            _check_object(event.query_snapshot)
        if event.occurred_at is None:
            return Judged(event, None)
        return Judged(event, to_epoch_ms(parse_occurred_at(event.occurred_at)))
    except (*_NOT_SURE, ValueError):
        return None


def _may_repeat_an_object(value: bytes) -> bool:
    """Whether metadata or query_snapshot may stand twice: then one was skipped without a look inside.

    A key may also be spelled with escapes of its letters, which no ordinary encoder writes.
    """
    if value.count(b'"metadata"') > 1 or value.count(b'"query_snapshot"') > 1:
        return True
    return b"\\u00" in value and _ESCAPED_KEY_LETTER.search(value) is not None


def _check_object(raw: Raw) -> None:
    """Raise unless `raw` is an object (or null) that the judge would take.

    The decoder checks a Raw's grammar but neither its UTF-8, nor its numbers' range, nor its depth.
    """
    text = bytes(raw)
    if text == b"null":
        return
    if len(text) > MAX_OBJECT_BYTES or text.count(b"{") + text.count(b"[") >= MAX_DEPTH:
        raise ValueError("perhaps too large or too deep")
    _decode_object(text)
