"""Description of dead letters as JSON: texts, base64 for bytes that are not UTF-8, and the problems of a repair."""

import base64
import codecs
from collections.abc import Sequence
from typing import Any

from runtime.http.errors import problem
from schemas.event_time import from_epoch_ms, iso_ms
from schemas.letter import Letter
from schemas.rejection import Rejection

MAX_VALUE_BYTES = 256 * 1024
"""Maximum bytes of a value in an answer of the API."""
MAX_PART_BYTES = 4 * 1024
"""Maximum bytes of a key, or of a header's name or value, in an answer of the API."""
MAX_HEADERS = 100
"""Maximum headers in an answer of the API."""
MAX_LETTER_PROBLEMS = 100
"""Maximum problems of one letter in an answer of the API."""


def describe(letter: Letter) -> dict[str, Any]:
    """Describe a letter as JSON; a part that is not UTF-8 is in base64 under `<name>_base64`."""
    return {
        "origin": str(letter.origin),
        "appended_at": iso_ms(from_epoch_ms(letter.append_ms)),
        "namespace": letter.namespace,
        "interaction_id": letter.interaction_id,
        "reason": letter.reason,
        "field": letter.field,
        "message": letter.message,
        **_bytes("key", letter.key),
        **_bytes("value", letter.value),
        "headers": [{**_bytes("name", _raw_name(name)), **_bytes("value", raw)} for name, raw in letter.headers],
    }


def describe_bounded(letter: Letter) -> dict[str, Any]:
    """Describe key, value and headers of a letter, cut to the maximum sizes of an answer."""
    headers = [
        {
            **_both("name", _raw_name(name), MAX_PART_BYTES),
            **_both("value", raw, MAX_PART_BYTES),
            "truncated": max(len(_raw_name(name)), len(raw or b"")) > MAX_PART_BYTES,
        }
        for name, raw in letter.headers[:MAX_HEADERS]
    ]
    return {
        **_both("key", letter.key, MAX_PART_BYTES),
        "key_truncated": len(letter.key or b"") > MAX_PART_BYTES,
        **_both("value", letter.value, MAX_VALUE_BYTES),
        "value_bytes": None if letter.value is None else len(letter.value),
        "value_truncated": len(letter.value or b"") > MAX_VALUE_BYTES,
        "headers": headers,
        "headers_total": len(letter.headers),
    }


def describe_problems(problems: Sequence[Rejection]) -> list[dict[str, Any]]:
    """Describe the first problems of a letter, each with its type, location and message."""
    return [
        problem(each.reason, [*map(_place, each.field.split("."))] if each.field else [], each.message)
        for each in problems[:MAX_LETTER_PROBLEMS]
    ]


def text_of(raw: bytes | None, most_bytes: int) -> str | None:
    """Decode the first bytes of a text, without a character that the cut parts; None for bytes that are not UTF-8."""
    if raw is None:
        return None
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(raw[:most_bytes], final=len(raw) <= most_bytes)
    except UnicodeDecodeError:
        return None


def _place(part: str) -> str | int:
    return int(part) if part.isascii() and part.isdigit() else part


def _raw_name(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _bytes(name: str, raw: bytes | None) -> dict[str, str | None]:
    if raw is None:
        return {name: None}
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw).decode()}


def _both(name: str, raw: bytes | None, most_bytes: int) -> dict[str, str | None]:
    """Describe bytes as text or as base64; the other one is null."""
    text = text_of(raw, most_bytes)
    is_bytes = raw is not None and text is None
    return {name: text, f"{name}_base64": base64.b64encode((raw or b"")[:most_bytes]).decode() if is_bytes else None}
