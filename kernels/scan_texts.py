"""Copying of scanned texts, with their JSON escapes resolved."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kernels.compiled import compiled
from kernels.scan_event import Integers
from kernels.scan_json import BACKSLASH, Bytes, scan_escape, scan_unit
from kernels.wide import WIDE, copy_wide

_MEANING = np.arange(256, dtype=np.uint8)
for _escape, _meant in zip(b"bfnrt", b"\b\f\n\r\t", strict=True):
    _MEANING[_escape] = _meant


class Texts(NamedTuple):
    """Texts joined, so that compiled code can take them."""

    joined: Bytes
    ends: Integers
    """Ends of each text, after a 0."""


def join_texts(texts: Sequence[bytes]) -> Texts:
    """Join texts."""
    return Texts(np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)]))


@compiled
def copy(text: Bytes, first: int, size: int, into: Bytes, at: int) -> int:
    """Copy bytes; return their end. Up to WIDE bytes after it are overwritten, within `into`."""
    if size + WIDE <= len(text) - first and size + WIDE <= len(into) - at:
        for done in range(0, size, WIDE):
            copy_wide(text, first + done, into, at + done)
    else:
        for i in range(size):
            into[np.uint64(at + i)] = text[np.uint64(first + i)]
    return at + size


@compiled
def copy_text(texts: Texts, number: int, into: Bytes, at: int) -> int:
    """Copy one of some texts; return its end. Bytes after it are overwritten as `copy` does."""
    start = texts.ends[number]
    return copy(texts.joined, start, texts.ends[number + 1] - start, into, at)


@compiled
def write_character(code: int, into: Bytes, at: int) -> int:
    """Write a character as UTF-8; return its end."""
    if code < 0x80:
        into[at] = code
        return at + 1
    size = 2 if code < 0x800 else 3 if code < 0x10000 else 4
    for i in range(size - 1, 0, -1):
        into[at + i] = 0x80 | (code & 0x3F)
        code >>= 6
    into[at] = (0xF00 >> size & 0xFF) | code
    return at + size


@compiled
def copy_without_escapes(text: Bytes, first: int, size: int, into: Bytes, at: int) -> int:
    """Copy a JSON string with its escapes resolved; return its end."""
    end = first + size
    while first < end:
        if text[first] != BACKSLASH:
            into[at] = text[first]
            first, at = first + 1, at + 1
            continue
        size, _ = scan_escape(text, first, end)
        if size == 2:
            into[at] = _MEANING[text[first + 1]]
            at += 1
        else:
            code = scan_unit(text, first, end)
            if size == 12:
                code = 0x10000 + ((code - 0xD800) << 10) + scan_unit(text, first + 6, end) - 0xDC00
            at = write_character(code, into, at)
        first += size
    return at


@compiled
def copy_span(text: Bytes, span: Integers, into: Bytes, at: int) -> int:
    """Copy the text of a span with its escapes resolved; return its end."""
    if span[1] == span[2]:
        return copy(text, span[0], span[1], into, at)
    return copy_without_escapes(text, span[0], span[1], into, at)


@compiled
def write_decimal(number: int, into: Bytes, at: int) -> int:
    """Write a number from 0 on, and a space; return their end."""
    digits, rest = 1, number // 10
    while rest > 0:
        digits, rest = digits + 1, rest // 10
    for i in range(digits - 1, -1, -1):
        into[at + i] = 48 + number % 10
        number //= 10
    into[at + digits] = 32
    return at + digits + 1
