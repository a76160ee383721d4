"""Counting of the members of a JSON text, before objects are made of them."""

import numpy as np

from kernels.compiled import compiled
from kernels.scan_json import (
    BACKSLASH,
    CLOSE_ARRAY,
    CLOSE_OBJECT,
    COMMA,
    OPEN_ARRAY,
    OPEN_OBJECT,
    QUOTE,
    Bytes,
    skip_plain,
)


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
            at = skip_plain(text, at + 1, end)
            while at < end and text[np.uint64(at)] != QUOTE:
                at += 2 if text[np.uint64(at)] == BACKSLASH else 1
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
