"""Cursors of events as text. They hold only values that the client has seen, and are not bound to a key."""

import base64
import binascii
import json
from typing import Any

from readers.event_rows import EventPlace
from readers.listing import MAX_INT64
from readers.log_position import LogPosition
from runtime.http.errors import ApiError, invalid, problem
from schemas.event_time import END_MS
from schemas.identity import is_interaction_id

MAX_TOPIC_CHARACTERS = 249
_MAX_UINT32 = 2**32 - 1


def write_place(place: EventPlace) -> str:
    """Return the cursor after an event."""
    return _write(list(place))


def read_place(text: str) -> EventPlace:
    """Return the event of a cursor. Raises ApiError 422."""
    match _read(text):
        case [str(interaction_id), str(topic), int(partition), int(offset)] if (
            is_interaction_id(interaction_id)
            and _is_topic(topic)
            and 0 <= partition <= _MAX_UINT32
            and _is_offset(offset)
        ):
            return EventPlace(interaction_id, topic, partition, offset)
    raise _bad_cursor()


def write_position(position: LogPosition) -> str:
    """Return the cursor of a position."""
    return _write([position.topic, position.at_ms, position.settled_ms, *position.offsets])


def read_position(text: str) -> LogPosition:
    """Return the position of a cursor. Raises ApiError 422."""
    match _read(text):
        case [str(topic), int(at_ms), int(settled_ms), *offsets] if (
            _is_topic(topic) and _is_time(at_ms) and _is_time(settled_ms) and all(map(_is_offset, offsets))
        ):
            return LogPosition(topic, at_ms, settled_ms, tuple(offsets))
    raise _bad_cursor()


def _write(values: list[Any]) -> str:
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _read(text: str) -> Any:
    try:
        return json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _bad_cursor() from None


def _is_offset(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INT64


def _is_time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < END_MS


def _is_topic(text: str) -> bool:
    return len(text) <= MAX_TOPIC_CHARACTERS and text.isascii()


def _bad_cursor() -> ApiError:
    return invalid([problem("bad_cursor", ["query", "cursor"], "is not a cursor of this call")])
