"""The fast path: says yes to nearly every event in about a microsecond, and leaves the rest to the judge.

It may say yes only where the judge says yes, and must then give the same values. It never says no.
"""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw

from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.identity import are_interaction_ids, is_interaction_id
from schemas.interaction import MAX_OBJECT_BYTES
from schemas.json_bounds import MAX_DEPTH
from schemas.judge import judge
from schemas.rejection import Rejection
from schemas.wire import NULL, Judged, WireEvent

TOGETHER = 128
"""Values that are decoded in one go; a single one that cannot be decoded makes all of them be looked at alone."""
KNOWN_OBJECTS = 4_096
KNOWN_OBJECT_BYTES = 512

_decoder = msgspec.json.Decoder(WireEvent)
_decode_event, _decode_lines = _decoder.decode, _decoder.decode_lines
_decode_object = msgspec.json.Decoder(dict).decode

_known_objects: set[bytes] = set()
"""Small objects that were looked into and are good: the same ones tend to come again."""

_ESCAPED_KEY_LETTER = re.compile(rb"\\u00(?:5[fF]|6[1-9a-fA-F]|7[0-9aA])")

_NOT_SURE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


def validate_all(values: Sequence[bytes | None]) -> list[Judged | Rejection]:
    """Decide about record values, one by one or many together: the answers are the same."""
    outcomes: list[Judged | Rejection] = []
    for start in range(0, len(values), TOGETHER):
        some = values[start : start + TOGETHER]
        outcomes += _validate_together(some) or map(validate, some)
    return outcomes


def validate(value: bytes | None) -> Judged | Rejection:
    """Decide about one record value, the fast way where that is safe."""
    return decode_fast(value) or judge(value)


def decode_fast(value: bytes | None) -> Judged | None:
    """The event in `value`, or None when only the judge can tell."""
    if value is None:
        return None
    try:
        event = _decode_event(value)
        if _object_keys(value) != _present_objects([event]):
            return None
        if event.interaction_id is not None and not is_interaction_id(event.interaction_id):
            return None
        return _checked(event)
    except _NOT_SURE:
        return None


def _validate_together(values: Sequence[bytes | None]) -> list[Judged | Rejection] | None:
    """Decide about all of them, or None when they had better be looked at one by one."""
    if None in values:
        return None
    lines = b"\n".join(values)  # type: ignore[arg-type]
    if not _is_an_object_a_line(lines, len(values)):
        return None
    try:
        events = _decode_lines(lines)
    except _NOT_SURE:
        return None
    if len(events) != len(values) or _object_keys(lines) != _present_objects(events):
        return None
    if not are_interaction_ids([event.interaction_id for event in events if event.interaction_id is not None]):
        return None
    return [_checked_or_judged(event, value) for event, value in zip(events, values, strict=True)]


def _is_an_object_a_line(lines: bytes, count: int) -> bool:
    """Whether each value begins with a brace, ends with one and has no line break.

    Then a document that is not over at the end of its line cannot go on in the next: behind a closing brace no
    other one may open, and no text holds a line break. So as many documents as lines are one a line.
    """
    return (
        lines.startswith(b"{")
        and lines.endswith(b"}")
        and lines.count(b"\n") == count - 1
        and lines.count(b"}\n{") == count - 1
    )


def _object_keys(text: bytes) -> int:
    """How often `metadata` and `query_snapshot` stand as keys, or more often; -1 when that cannot be told.

    Of one that stands twice the first is skipped without a look inside. A key may also be spelled with escapes of its
    letters, which no ordinary encoder writes.
    """
    if b"\\u00" in text and _ESCAPED_KEY_LETTER.search(text) is not None:
        return -1
    return text.count(b'"metadata"') + text.count(b'"query_snapshot"')


def _present_objects(events: Sequence[WireEvent]) -> int:
    return sum([event.metadata is not NULL for event in events]) + sum(
        [event.query_snapshot is not NULL for event in events]
    )


def _checked_or_judged(event: WireEvent, value: bytes | None) -> Judged | Rejection:
    try:
        return _checked(event)
    except _NOT_SURE:
        return judge(value)


def _checked(event: WireEvent) -> Judged:
    """The event, if what the decoder did not look at is good too. Raises one of _NOT_SURE."""
    if event.metadata is not NULL:
        _check_object(event.metadata)
    if event.query_snapshot is not NULL:
        _check_object(event.query_snapshot)
    if event.result_set_size == 0 and "zero_results" not in event.interaction_type:
        raise ValueError("perhaps no result set")
    if event.occurred_at is None:
        return Judged(event, None)
    return Judged(event, to_epoch_ms(parse_occurred_at(event.occurred_at)))


def _check_object(raw: Raw) -> None:
    """Raise unless `raw` is an object (or null) that the judge would take.

    The decoder checks a Raw's grammar but neither its UTF-8, nor its numbers' range, nor its depth.
    """
    text = bytes(raw)
    if text in _known_objects or text == b"null":
        return
    if len(text) > MAX_OBJECT_BYTES or text.count(b"{") + text.count(b"[") >= MAX_DEPTH:
        raise ValueError("perhaps too large or too deep")
    _decode_object(text)
    if len(text) <= KNOWN_OBJECT_BYTES:
        if len(_known_objects) >= KNOWN_OBJECTS:
            _known_objects.clear()
        _known_objects.add(text)
