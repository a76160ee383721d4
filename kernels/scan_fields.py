"""Scanning of field values: words of a vocabulary, integers, times, ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.compiled import compiled
from kernels.scan_json import MINUS, POINT, UNSURE, Bytes, is_digit, is_word, skip_digits
from kernels.wide import WIDE, same_bytes
from schemas.event_time import END_MS
from schemas.identity import PREFIX
from schemas.interaction import MAX_INT32

NOT_FOUND = -1

_SLOTS = 256
_LOWER_HEX = np.array([int(chr(byte), 16) if chr(byte) in "0123456789abcdef" else -1 for byte in range(256)])
_ID_PREFIX = np.frombuffer(PREFIX.encode(), np.uint8)
_DAY_MS = 86_400_000


class Vocabulary(NamedTuple):
    """Perfect hash of words of up to WIDE bytes, by length, first and last byte; a found word is compared in full."""

    length_factor: int
    first_factor: int
    slots: npt.NDArray[np.int8]
    sizes: npt.NDArray[np.int64]
    letters: Bytes
    """Words padded to WIDE bytes each."""


def vocabulary(words: Sequence[str]) -> Vocabulary:
    """Build the hash of some words. Raises ValueError when no factors below 64 keep them apart."""

    def slot(word: str, length_factor: int, first_factor: int) -> int:
        return (len(word) * length_factor + ord(word[0]) * first_factor + ord(word[-1])) % _SLOTS

    for factors in ((i, j) for i in range(1, 64) for j in range(1, 64)):
        slots = np.full(_SLOTS, NOT_FOUND, np.int8)
        for number, word in enumerate(words):
            slots[slot(word, *factors)] = number
        if np.count_nonzero(slots != NOT_FOUND) == len(words):
            letters = b"".join(word.encode().ljust(WIDE) for word in words)
            return Vocabulary(*factors, slots, np.array([*map(len, words)]), np.frombuffer(letters, np.uint8))
    raise ValueError("words that are too alike")


@compiled
def find_word(text: Bytes, first: int, end: int, words: Vocabulary) -> int:
    """Return the number of the word that a range of the text holds, or NOT_FOUND."""
    size = end - first
    if size == 0:
        return NOT_FOUND
    slot = size * words.length_factor + int(text[first]) * words.first_factor + int(text[end - 1])
    number = words.slots[slot % _SLOTS]
    if number == NOT_FOUND or words.sizes[number] != size:
        return NOT_FOUND
    letters = np.int64(number) * WIDE
    if first + WIDE <= len(text):
        return int(number) if same_bytes(text, first, words.letters, letters) >= size else NOT_FOUND
    for i in range(size):
        if text[first + i] != words.letters[letters + i]:
            return NOT_FOUND
    return int(number)


@compiled
def scan_int32(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """Scan an integer from 0 to MAX_INT32; return the position after it, or UNSURE, and the integer."""
    first = at
    at = skip_digits(text, first, min(end, first + 11))
    size = at - first
    if size == 0 or size > 10 or (size > 1 and text[first] == ord("0")):
        return UNSURE, 0
    if at < end and (text[at] == POINT or text[at] | 32 == ord("e")):
        return UNSURE, 0
    value = 0
    for i in range(first, at):
        value = value * 10 + int(text[i]) - 48
    return (at, value) if value <= MAX_INT32 else (UNSURE, 0)


@compiled
def read_two_digits(text: Bytes, at: int) -> int:
    """Return the number of two digits; below 0 when they are not digits."""
    if is_digit(text[at]) and is_digit(text[at + 1]):
        return (int(text[at]) - 48) * 10 + int(text[at + 1]) - 48
    return -100_000


@compiled
def days_since_1970(year: int, month: int, day: int) -> int:
    """Return the days from 1970 to a date of the Gregorian calendar (H. Hinnant's days_from_civil, from year 0 on)."""
    year -= month <= 2
    of_era = year % 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return year // 400 * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@compiled
def scan_time(text: Bytes, at: int, end: int) -> int:
    """Return the time in a range of the text, in whole milliseconds since 1970; UNSURE also for rare forms."""
    if end - at < 19 or text[at + 4] != MINUS or text[at + 7] != MINUS or text[at + 10] != ord("T"):
        return UNSURE
    if text[at + 13] != ord(":") or text[at + 16] != ord(":"):
        return UNSURE
    year = read_two_digits(text, at) * 100 + read_two_digits(text, at + 2)
    month, day = read_two_digits(text, at + 5), read_two_digits(text, at + 8)
    hour, minute, second = (
        read_two_digits(text, at + 11),
        read_two_digits(text, at + 14),
        read_two_digits(text, at + 17),
    )
    if not (year >= 0 and 1 <= month <= 12 and day >= 1):
        return UNSURE
    if not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return UNSURE
    days = days_since_1970(year, month, day)
    if days >= days_since_1970(year + month // 12, month % 12 + 1, 1):
        return UNSURE
    time_ms = days * _DAY_MS + ((hour * 60 + minute) * 60 + second) * 1_000
    at += 19
    if at < end and text[at] == POINT:
        first, at = at + 1, skip_digits(text, at + 1, end)
        if not 1 <= at - first <= 9:
            return UNSURE
        for i, scale in enumerate((100, 10, 1)):
            if first + i < at:
                time_ms += scale * (int(text[first + i]) - 48)
    ahead_ms = scan_utc_offset(text, at, end)
    time_ms -= ahead_ms
    return time_ms if ahead_ms < _DAY_MS and 0 <= time_ms < END_MS else UNSURE


@compiled
def scan_utc_offset(text: Bytes, at: int, end: int) -> int:
    """Return the milliseconds by which a zone (none, Z or +01:00) is ahead of UTC; a day for any other form."""
    if at == end or (at + 1 == end and text[at] == ord("Z")):
        return 0
    if at + 6 == end and text[at + 3] == ord(":") and (text[at] == ord("+") or text[at] == MINUS):
        hours, minutes = read_two_digits(text, at + 1), read_two_digits(text, at + 4)
        if 0 <= hours <= 23 and 0 <= minutes <= 59:
            ahead_ms = (hours * 60 + minutes) * 60_000
            return -ahead_ms if text[at] == MINUS else ahead_ms
    return _DAY_MS


@compiled
def scan_id(text: Bytes, at: int, end: int, row: int, ids: Bytes) -> bool:
    """Scan an id (`schemas.identity.ID_PATTERN`) into a row of `ids`, 16 bytes; return whether there is one."""
    if at + 36 > end or not is_word(text, at, end, _ID_PREFIX):
        return False
    all_digits = 0
    for i in range(16):
        high, low = _LOWER_HEX[text[at + 4 + 2 * i]], _LOWER_HEX[text[at + 5 + 2 * i]]
        all_digits |= high | low
        ids[row, i] = (high << 4 | low) & 255
    return all_digits >= 0 and ids[row, 6] >> 4 == 7 and ids[row, 8] >> 6 == 2
