"""JSON scanning byte by byte: the grammar of RFC 8259, and no more than that.

Every function starts at the position `at` of `text` and returns the position after the token, or UNSURE. UNSURE stands
for malformed input, and for the few forms that are left to the validator. No byte at or after `end` counts.

A position is at least 0: indexing by it as an unsigned number spares the compiler the check for a negative index.
"""

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.wide import WIDE, plain_bytes
from schemas.json_bounds import MAX_DEPTH

Bytes = npt.NDArray[np.uint8]

UNSURE = -1

QUOTE, BACKSLASH, COMMA, COLON, MINUS, POINT = 34, 92, 44, 58, 45, 46
OPEN_OBJECT, CLOSE_OBJECT, OPEN_ARRAY, CLOSE_ARRAY = 123, 125, 91, 93

_PLAIN = np.array([32 <= byte < 128 and byte not in (QUOTE, BACKSLASH) for byte in range(256)])
_SIMPLE_ESCAPES = np.array([chr(byte) in '"\\/bfnrt' for byte in range(256)])
_SPACE = np.array([chr(byte) in " \t\r\n" for byte in range(256)])
_HEX = np.array([int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else -1 for byte in range(256)])
_NULL, _TRUE, _FALSE = (np.frombuffer(word, np.uint8) for word in (b"null", b"true", b"false"))

_MAX_DIGITS = 20
_MAX_EXPONENT = 280
"""Largest number of digits of an integer that a double certainly holds."""


@compiled
def skip_space(text: Bytes, at: int, end: int) -> int:
    """Return the position of the next byte that is not white space, or `end`."""
    while at < end and text[np.uint64(at)] <= 32 and _SPACE[text[np.uint64(at)]]:
        at += 1
    return at


@compiled
def skip_plain(text: Bytes, at: int, end: int) -> int:
    """Return the position of the next byte that is special inside a string, or some position from `end` on."""
    while at < end and at + WIDE <= len(text):
        plain = plain_bytes(text, at)
        at += plain
        if plain < WIDE:
            return at
    while at < end and _PLAIN[text[np.uint64(at)]]:
        at += 1
    return at


@compiled
def scan_string(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Scan a string from after its opening quote; return the position of its closing quote and its size decoded."""
    first, saved = at, 0
    while True:
        at = skip_plain(text, at, end)
        if at >= end:
            return UNSURE, 0
        byte = text[at]
        if byte == QUOTE:
            return at, at - first - saved
        if byte == BACKSLASH:
            size, written = scan_escape(text, at, end)
            if size == 0:
                return UNSURE, 0
            at += size
            saved += size - written
        else:
            size = scan_character(text, at, end)
            if size == 0:
                return UNSURE, 0
            at += size


@compiled
def scan_escape(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Return the size of the escape at a backslash, and its size as UTF-8; 0 for an invalid one or half a pair."""
    if at + 1 >= end:
        return 0, 0
    if _SIMPLE_ESCAPES[text[at + 1]]:
        return 2, 1
    code = scan_unit(text, at, end)
    if code < 0:
        return 0, 0
    if 0xD800 <= code <= 0xDFFF:
        if code > 0xDBFF or not 0xDC00 <= scan_unit(text, at + 6, end) <= 0xDFFF:
            return 0, 0
        return 12, 4
    return 6, 1 if code < 0x80 else 2 if code < 0x800 else 3


@compiled
def scan_unit(text: Bytes, at: int, end: int) -> int:
    r"""Return the UTF-16 code unit of an escape like \u00e9, or UNSURE."""
    if at + 6 > end or text[at] != BACKSLASH or text[at + 1] != ord("u"):
        return UNSURE
    high = _HEX[text[at + 2]] << 4 | _HEX[text[at + 3]]
    low = _HEX[text[at + 4]] << 4 | _HEX[text[at + 5]]
    return UNSURE if high < 0 or low < 0 else high << 8 | low


@compiled
def scan_character(text: Bytes, at: int, end: int) -> int:
    """Return the size of a UTF-8 character of more than one byte (RFC 3629), or 0 for an invalid one."""
    lead = text[at]
    size = 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0
    if size == 0 or at + size > end:
        return 0
    for tail in range(at + 1, at + size):
        if text[tail] & 0xC0 != 0x80:
            return 0
    second = text[at + 1]
    is_overlong = (lead == 0xE0 and second < 0xA0) or (lead == 0xF0 and second < 0x90)
    is_surrogate = lead == 0xED and second > 0x9F
    is_too_high = lead == 0xF4 and second > 0x8F
    return 0 if is_overlong or is_surrogate or is_too_high else size


@compiled
def is_digit(byte: int) -> bool:
    """Return whether a byte is one of 0 to 9."""
    return 48 <= byte <= 57


@compiled
def skip_digits(text: Bytes, at: int, end: int) -> int:
    """Return the position of the next byte that is not a digit, or `end`."""
    while at < end and is_digit(text[at]):
        at += 1
    return at


@compiled
def scan_number(text: Bytes, at: int, end: int) -> int:
    """Scan a number. UNSURE for one that may be larger than any double, and for -0."""
    is_negative = at < end and text[at] == MINUS
    first = at + is_negative
    at = skip_digits(text, first, end)
    digits = at - first
    if digits == 0 or (digits > 1 and text[first] == ord("0")):
        return UNSURE
    is_sure, is_integer = digits <= _MAX_DIGITS, True
    if at < end and text[at] == POINT:
        is_integer = False
        first_decimal = at + 1
        at = skip_digits(text, first_decimal, end)
        if at == first_decimal:
            return UNSURE
    if at < end and text[at] | 32 == ord("e"):
        is_integer = False
        at += 1
        is_small = at < end and text[at] == MINUS
        if at < end and (text[at] == MINUS or text[at] == ord("+")):
            at += 1
        exponent, first_digit = 0, at
        while at < end and is_digit(text[at]):
            exponent = min(1_000, exponent * 10 + text[at] - 48)
            at += 1
        if at == first_digit:
            return UNSURE
        is_sure = is_sure and (is_small or exponent <= _MAX_EXPONENT)
    if is_integer and is_negative and text[first] == ord("0"):
        is_sure = False
    return at if is_sure else UNSURE


@compiled
def is_word(text: Bytes, at: int, end: int, word: Bytes) -> bool:
    """Return whether `word` stands at a position."""
    if at + len(word) > end:
        return False
    for i in range(len(word)):
        if text[at + i] != word[i]:
            return False
    return True


@compiled
def is_null(text: Bytes, at: int, end: int) -> bool:
    """Return whether `null` stands at a position."""
    return at < end and text[at] == _NULL[0] and is_word(text, at, end, _NULL)


@compiled
def scan_scalar(text: Bytes, at: int, end: int) -> int:
    """Scan a string, a number, true, false or null."""
    byte = text[at]
    if byte == QUOTE:
        at, _ = scan_string(text, at + 1, end)
        return at if at == UNSURE else at + 1
    if byte == MINUS or is_digit(byte):
        return scan_number(text, at, end)
    if is_null(text, at, end) or is_word(text, at, end, _TRUE):
        return at + 4
    return at + 5 if is_word(text, at, end, _FALSE) else UNSURE


@compiled
def scan_key(text: Bytes, at: int, end: int) -> int:
    """Scan a key and its colon."""
    if at >= end or text[at] != QUOTE:
        return UNSURE
    at, _ = scan_string(text, at + 1, end)
    if at == UNSURE:
        return UNSURE
    at = skip_space(text, at + 1, end)
    return at + 1 if at < end and text[at] == COLON else UNSURE


@compiled
def scan_object(text: Bytes, at: int, end: int) -> int:
    """Scan an object that is a member of an event. UNSURE for one that nests deeper than MAX_DEPTH with it."""
    kinds, depth, awaits_value = np.uint64(0), 0, True
    while at != UNSURE:
        at = skip_space(text, at, end)
        if at >= end:
            return UNSURE
        byte, is_object = text[at], bool(kinds & np.uint64(1))
        if awaits_value and byte in (OPEN_OBJECT, OPEN_ARRAY):
            is_object, depth = byte == OPEN_OBJECT, depth + 1
            if depth >= MAX_DEPTH:
                return UNSURE
            kinds = kinds << np.uint64(1) | np.uint64(is_object)
            at = skip_space(text, at + 1, end)
            if at < end and text[at] == (CLOSE_OBJECT if is_object else CLOSE_ARRAY):
                awaits_value = False
            elif is_object:
                at = scan_key(text, at, end)
        elif awaits_value:
            at = scan_scalar(text, at, end)
            awaits_value = False
        elif byte == COMMA:
            at += 1
            if is_object:
                at = scan_key(text, skip_space(text, at, end), end)
            awaits_value = True
        elif byte == (CLOSE_OBJECT if is_object else CLOSE_ARRAY):
            at, depth, kinds = at + 1, depth - 1, kinds >> np.uint64(1)
            if depth == 0:
                return at
        else:
            return UNSURE
    return UNSURE
