"""Structure of request bodies: how many events a batch has, and where each is."""

import numpy as np

from kernels.compiled import compiled
from kernels.scan_event import Integers
from kernels.scan_json import (
    BACKSLASH,
    CLOSE_ARRAY,
    CLOSE_OBJECT,
    COLON,
    COMMA,
    OPEN_ARRAY,
    OPEN_OBJECT,
    QUOTE,
    UNSURE,
    Bytes,
    skip_plain,
    skip_space,
)

_LIST_KEY = np.frombuffer(b'"interactions"', np.uint8)


def count_commas(body: bytes) -> tuple[int, int]:
    """Count the commas at depth 1 and at depth 2 of a JSON text: one less than its members, and its members' members.

    Exact for well-formed JSON; for anything else some numbers from 0 to the size of the body. Never raises, allocates
    nothing.
    """
    outer, inner = _count_commas(np.frombuffer(body, np.uint8))
    return int(outer), int(inner)


@compiled
def _count_commas(text: Bytes) -> tuple[int, int]:
    at, end, depth, outer, inner = 0, len(text), 0, 0, 0
    while at < end:
        byte = text[np.uint64(at)]
        if byte == QUOTE:
            at = _skip_string(text, at, end)
        elif byte in (OPEN_OBJECT, OPEN_ARRAY):
            depth += 1
        elif byte in (CLOSE_OBJECT, CLOSE_ARRAY):
            depth -= 1
        elif byte == COMMA:
            if depth == 1:
                outer += 1
            elif depth == 2:
                inner += 1
        at += 1
    return outer, inner


def split_batch(body: bytes, most: int) -> Integers | None:
    """Return start and end of each object in a body `{"interactions":[{...},{...}]}` of 1 to `most` objects.

    None for a body of another shape, also for one that only spells its key in another way. Brackets inside objects are
    counted, not matched: if every object is well-formed JSON, so is the body. Never raises, allocates 16 bytes for each
    of `most`.
    """
    spans = np.empty((most, 2), np.int64)
    found = _split_batch(np.frombuffer(body, np.uint8), spans)
    return spans[:found] if found > 0 else None


@compiled
def _split_batch(text: Bytes, spans: Integers) -> int:
    """Write the spans of the objects. Return their number, or UNSURE."""
    end, found = len(text), 0
    at = _skip_list_start(text, end)
    while at != UNSURE:
        if at >= end or text[np.uint64(at)] != OPEN_OBJECT or found == len(spans):
            return UNSURE
        close = _skip_object(text, at, end)
        if close == UNSURE:
            return UNSURE
        spans[found, 0], spans[found, 1] = at, close
        found += 1
        at = skip_space(text, close, end)
        if at < end and text[np.uint64(at)] == COMMA:
            at = skip_space(text, at + 1, end)
        elif at < end and text[np.uint64(at)] == CLOSE_ARRAY:
            at = _skip_byte(text, at + 1, end, CLOSE_OBJECT)
            return found if at == end else UNSURE
        else:
            return UNSURE
    return UNSURE


@compiled
def _skip_list_start(text: Bytes, end: int) -> int:
    """Return the position of the first byte in the list, or UNSURE."""
    at = _skip_byte(text, 0, end, OPEN_OBJECT)
    if at == UNSURE or at + len(_LIST_KEY) > end:
        return UNSURE
    for offset in range(len(_LIST_KEY)):
        if text[np.uint64(at + offset)] != _LIST_KEY[offset]:
            return UNSURE
    at = _skip_byte(text, at + len(_LIST_KEY), end, COLON)
    return at if at == UNSURE else _skip_byte(text, at, end, OPEN_ARRAY)


@compiled
def _skip_byte(text: Bytes, at: int, end: int, byte: int) -> int:
    """Return the position after white space, a byte, and white space; UNSURE without that byte."""
    at = skip_space(text, at, end)
    return skip_space(text, at + 1, end) if at < end and text[np.uint64(at)] == byte else UNSURE


@compiled
def _skip_object(text: Bytes, at: int, end: int) -> int:
    """Return the end of an object or array: after the bracket that closes the one at `at`; or UNSURE."""
    depth = 0
    while at < end:
        byte = text[np.uint64(at)]
        if byte == QUOTE:
            at = _skip_string(text, at, end)
        elif byte in (OPEN_OBJECT, OPEN_ARRAY):
            depth += 1
        elif byte in (CLOSE_OBJECT, CLOSE_ARRAY):
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return UNSURE


@compiled
def _skip_string(text: Bytes, at: int, end: int) -> int:
    """Return the position of the quote that closes the string at `at`, or some position from `end` on."""
    at = skip_plain(text, at + 1, end)
    while at < end and text[np.uint64(at)] != QUOTE:
        at = skip_plain(text, at + (2 if text[np.uint64(at)] == BACKSLASH else 1), end)
    return at
