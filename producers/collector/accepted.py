"""Accepted events: their text, and the fields that form their keys."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Raw

from kernels.boundary import NUMBER_AT, SPAN_AT, Columns, Integers, scan
from producers.deliveries import OutgoingRecord
from schemas.interaction import INTERACTION_TYPES
from schemas.wire import ValidEvent, partition_key

MAX_VERBATIM_BYTES = 16 * 1024
"""Largest event that keeps its text: blanks cost the client nothing, and every reader much."""
ID_KEY = b'"interaction_id"'
"""Key of an event that may have an id, which requests may not."""
_KEY_FIELDS = np.array([SPAN_AT[name] for name in ("feature_id", "execution_id", "session_id", "user_id")])
_OCCURRED_AT = NUMBER_AT["occurred_at"]


class AcceptedEvent(NamedTuple):
    """Valid event: its JSON text, still without an id, and the fields that form its keys."""

    text: bytes
    feature_id: str
    execution_id: str | None
    session_id: str | None
    user_id: str | None
    types: Sequence[str]
    occurred_ms: int | None
    """Time of an imported event in ms since 1970; None for a live one."""

    @classmethod
    def validated(cls, validated: ValidEvent) -> "AcceptedEvent":
        """Return the accepted form of an event that the validator has checked."""
        event, occurred_ms = validated
        keys = event.feature_id, event.execution_id, event.session_id, event.user_id
        return cls(msgspec.json.encode(event), *keys, event.interaction_type, occurred_ms)

    def record(
        self, namespace: str, interaction_id: str, token: str | None, headers: Sequence[tuple[str, bytes]]
    ) -> OutgoingRecord:
        """Return the record of the event with its id. The `token` is a part of the key of one without an execution."""
        value = b'{"interaction_id":"%b",%b' % (interaction_id.encode(), self.text[1:])
        return OutgoingRecord(interaction_id, partition_key(namespace, self, token), value, headers)


class ScannedTexts(NamedTuple):
    """Events of requests that were scanned together, one row each."""

    texts: list[bytes]
    """Texts; empty for an event of too many bytes."""
    joined: bytes
    firsts: Integers
    sizes: Integers
    columns: Columns
    sure: npt.NDArray[np.bool_]
    """By row: whether the event is accepted as it is; the validator decides about the others."""


def scan_together(given: Iterable[bytes | Raw], max_bytes: int) -> ScannedTexts:
    """Scan events of requests. An event that may have an id, or more than `max_bytes`, is left to the validator."""
    most = min(max_bytes, MAX_VERBATIM_BYTES)
    texts = [bytes(each) if len(each) <= most else b"" for each in given]
    joined, sizes = b"".join(texts), np.array([len(each) for each in texts], np.int64)
    ends = np.cumsum(sizes)
    columns, sure = scan(np.frombuffer(joined, np.uint8), ends - sizes, ends)
    sure &= np.array([text[:1] == b"{" for text in texts], np.bool_)
    if ID_KEY in joined:
        sure &= np.array([ID_KEY not in text for text in texts], np.bool_)
    return ScannedTexts(texts, joined, ends - sizes, sizes, columns, sure)


def scan_texts(given: Iterable[bytes | Raw], max_bytes: int) -> list[AcceptedEvent | None]:
    """Return events that the scanner accepts. None stands for all others."""
    texts, joined, _, _, columns, sure = scan_together(given, max_bytes)
    spans, times = columns.spans[:, _KEY_FIELDS].tolist(), columns.numbers[:, _OCCURRED_AT].tolist()
    type_ends = columns.type_ends.tolist()
    types = columns.types[: type_ends[-1]].tolist()  # the array has room for more than there are
    events = list[AcceptedEvent | None]()
    for row, (text, is_sure, keys, occurred_ms) in enumerate(zip(texts, sure.tolist(), spans, times, strict=True)):
        if not is_sure:
            events.append(None)
            continue
        feature, execution, session, user = [_text_at(joined, span) for span in keys]
        names = [INTERACTION_TYPES[each] for each in types[type_ends[row] : type_ends[row + 1]]]
        time = None if occurred_ms < 0 else occurred_ms
        events.append(AcceptedEvent(text, feature or "", execution, session, user, names, time))
    return events


def _text_at(joined: bytes, span: Sequence[int]) -> str | None:
    start, size, decoded_size = span
    if decoded_size < 0:
        return None
    raw = joined[start : start + size]
    found: str = raw.decode() if size == decoded_size else json.loads(b'"%b"' % raw)
    return found
