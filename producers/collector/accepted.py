"""Accepted events: their text, and the fields that form their keys."""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

from kernels.boundary import NUMBER_AT, SPAN_AT, scan
from producers.deliveries import OutgoingRecord
from schemas.interaction import INTERACTION_TYPES
from schemas.wire import ValidEvent, partition_key

MAX_VERBATIM_BYTES = 16 * 1024
"""Largest event that keeps its text: blanks cost the client nothing, and every reader much."""
ID_KEY = b'"interaction_id"'
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


def scan_texts(texts: Iterable[bytes | Raw], max_bytes: int) -> list[AcceptedEvent | None]:
    """Return events that the scanner accepts. None stands for all others.

    It also stands for events that may have an id, and for those of more than `max_bytes`.
    """
    most = min(max_bytes, MAX_VERBATIM_BYTES)
    texts = [bytes(each) if len(each) <= most else b"" for each in texts]
    joined = b"".join(texts)
    sizes = np.array([len(each) for each in texts], np.int64)
    ends = np.cumsum(sizes)
    columns, sure = scan(np.frombuffer(joined, np.uint8), ends - sizes, ends)
    spans, times = columns.spans[:, _KEY_FIELDS].tolist(), columns.numbers[:, _OCCURRED_AT].tolist()
    type_ends = columns.type_ends.tolist()
    types = columns.types[: type_ends[-1]].tolist()  # the array has room for more than there are
    events = list[AcceptedEvent | None]()
    for row, (text, is_sure, keys, occurred_ms) in enumerate(zip(texts, sure.tolist(), spans, times, strict=True)):
        if not is_sure or text[:1] != b"{" or ID_KEY in text:
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
