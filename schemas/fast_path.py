"""The fast path: says yes to nearly every event in about a microsecond, and leaves the rest to the judge.

It may say yes only where the judge says yes, and must then give the same values. It never says no.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.identity import are_interaction_ids
from schemas.interaction import MAX_OBJECT_BYTES
from schemas.json_bounds import MAX_DEPTH, depth_of_text
from schemas.judge import judge
from schemas.rejection import Rejection
from schemas.wire import Judged, WireEvent

Outcome: TypeAlias = tuple[WireEvent, int | None] | Rejection
"""A valid event and its `occurred_at`, as in Judged (which takes long to make), or why it is none."""

TOGETHER = 128
"""Values that are decoded in one go; a single one that cannot be decoded makes all of them be looked at alone."""


class _Objects(Struct, gc=False):
    """The objects of a value, looked into: also one whose key comes a second time, of which an event keeps the last.

    A Raw's grammar is checked by the decoder, but neither its UTF-8 nor the range of its numbers.
    """

    metadata: dict[str, Any] | None = None
    query_snapshot: dict[str, Any] | None = None


_events = msgspec.json.Decoder(WireEvent)
_objects = msgspec.json.Decoder(_Objects)

_NOT_SURE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


def validate_all(values: Sequence[bytes | None]) -> list[Outcome]:
    """Decide about record values, one by one or many together: the answers are the same."""
    outcomes: list[Outcome] = []
    for start in range(0, len(values), TOGETHER):
        some = values[start : start + TOGETHER]
        outcomes += _validate_together(some) or map(validate, some)
    return outcomes


def validate(value: bytes | None) -> Judged | Rejection:
    """Decide about one record value, the fast way where that is safe."""
    return decode_fast(value) or judge(value)


def decode_fast(value: bytes | None) -> Judged | None:
    """The event in `value`, or None when only the judge can tell."""
    if not value:
        return None
    try:
        if value.count(b"{") + value.count(b"[") >= MAX_DEPTH and depth_of_text(value.decode()) > MAX_DEPTH:
            return None
        event = _events.decode(value)
        _objects.decode(value)
        (judged,) = _checked([event])
        return Judged(*judged)
    except _NOT_SURE:
        return None


def _validate_together(values: Sequence[bytes | None]) -> Sequence[Outcome] | None:
    """Decide about all of them, or None when they had better be looked at one by one."""
    if None in values:
        return None
    known: Sequence[bytes] = values  # type: ignore[assignment]
    lines = b"\n".join(known)
    if not _is_an_object_a_line(known, lines) or _may_be_deep(known):
        return None
    try:
        events = _events.decode_lines(lines)
        _objects.decode_lines(lines)
        return _checked(events) if len(events) == len(values) else None
    except _NOT_SURE:
        return None


def _is_an_object_a_line(values: Sequence[bytes], lines: bytes) -> bool:
    """Whether each value begins with a brace, ends with one and has no line break.

    Then a document that is not over at the end of its line cannot go on in the next: behind a closing brace no
    other one may open, and no text holds a line break. So as many documents as lines are one a line.
    """
    return (
        lines.count(b"\n") == len(values) - 1
        and [value[:1] for value in values].count(b"{") == len(values)
        and [value[-1:] for value in values].count(b"}") == len(values)
    )


def _may_be_deep(values: Sequence[bytes]) -> bool:
    return max([value.count(b"{") + value.count(b"[") for value in values]) >= MAX_DEPTH


def _checked(events: Sequence[WireEvent]) -> list[tuple[WireEvent, int | None]]:
    """Events with their times, if what the decoder did not look at is good too. Raises one of _NOT_SURE."""
    raws = [event.metadata for event in events] + [event.query_snapshot for event in events]
    if max(map(len, raws)) > MAX_OBJECT_BYTES:
        raise ValueError("perhaps too large")
    if not are_interaction_ids([event.interaction_id for event in events if event.interaction_id is not None]):
        raise ValueError("not an id")
    if any(event.result_set_size == 0 and "zero_results" not in event.interaction_type for event in events):
        raise ValueError("perhaps no result set")
    return [(event, None if event.occurred_at is None else _epoch_ms(event.occurred_at)) for event in events]


def _epoch_ms(text: str) -> int:
    return to_epoch_ms(parse_occurred_at(text))
