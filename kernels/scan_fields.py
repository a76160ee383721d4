"""Reading what an interaction's fields hold: words of a vocabulary, small numbers, times, ids."""

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
    """Words of up to WIDE bytes, to be told apart by their length, first and last byte, and then compared."""

    length_factor: int
    first_factor: int
    slots: npt.NDArray[np.int8]
    sizes: npt.NDArray[np.int64]
    letters: Bytes
    """Each word has WIDE bytes."""


def vocabulary(words: Sequence[str]) -> Vocabulary:
    """One of these words. Raises ValueError when it finds no way to tell them apart."""

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
def find_word(text: Bytes, first: int, after: int, words: Vocabulary) -> int:
    """The number of the word that lies here, or NOT_FOUND."""
    size = after - first
    if size == 0:
        return NOT_FOUND
    slot = size * words.length_factor + int(text[first]) * words.first_factor + int(text[after - 1])
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
    """Behind an integer from 0 to MAX_INT32, and the integer."""
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
def two_digits(text: Bytes, at: int) -> int:
    """The number of two digits, or something below 0."""
    if is_digit(text[at]) and is_digit(text[at + 1]):
        return (int(text[at]) - 48) * 10 + int(text[at + 1]) - 48
    return -100_000


@compiled
def days_since_1970(year: int, month: int, day: int) -> int:
    """Days of a date of the Gregorian calendar (H. Hinnant's days_from_civil, for years from 0 on)."""
    year -= month <= 2
    of_era = year % 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return year // 400 * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@compiled
def scan_time(text: Bytes, at: int, after: int) -> int:
    """The time that lies here, in whole milliseconds since 1970, or UNSURE: also about forms that are rare."""
    if after - at < 19 or text[at + 4] != MINUS or text[at + 7] != MINUS or text[at + 10] != ord("T"):
        return UNSURE
    if text[at + 13] != ord(":") or text[at + 16] != ord(":"):
        return UNSURE
    year = two_digits(text, at) * 100 + two_digits(text, at + 2)
    month, day = two_digits(text, at + 5), two_digits(text, at + 8)
    hour, minute, second = two_digits(text, at + 11), two_digits(text, at + 14), two_digits(text, at + 17)
    if not (year >= 0 and 1 <= month <= 12 and day >= 1):
        return UNSURE
    if not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return UNSURE
    days = days_since_1970(year, month, day)
    if days >= days_since_1970(year + month // 12, month % 12 + 1, 1):
        return UNSURE
    time_ms = days * _DAY_MS + ((hour * 60 + minute) * 60 + second) * 1_000
    at += 19
    if at < after and text[at] == POINT:
        first, at = at + 1, skip_digits(text, at + 1, after)
        if not 1 <= at - first <= 9:
            return UNSURE
        for i, scale in enumerate((100, 10, 1)):
            if first + i < at:
                time_ms += scale * (int(text[first + i]) - 48)
    ahead_ms = scan_utc_offset(text, at, after)
    time_ms -= ahead_ms
    return time_ms if ahead_ms < _DAY_MS and 0 <= time_ms < END_MS else UNSURE


@compiled
def scan_utc_offset(text: Bytes, at: int, after: int) -> int:
    """By how many milliseconds a clock is ahead of UTC: nothing, Z or +01:00; a day or more for any other form."""
    if at == after or (at + 1 == after and text[at] == ord("Z")):
        return 0
    if at + 6 == after and text[at + 3] == ord(":") and (text[at] == ord("+") or text[at] == MINUS):
        hours, minutes = two_digits(text, at + 1), two_digits(text, at + 4)
        if 0 <= hours <= 23 and 0 <= minutes <= 59:
            ahead_ms = (hours * 60 + minutes) * 60_000
            return -ahead_ms if text[at] == MINUS else ahead_ms
    return _DAY_MS


@compiled
def scan_id(text: Bytes, at: int, end: int, line: int, ids: Bytes) -> bool:
    """Whether the id of an interaction lies here (`schemas.identity.ID_PATTERN`); its 16 bytes go into `ids`."""
    if at + 36 > end or not is_word(text, at, end, _ID_PREFIX):
        return False
    all_digits = 0
    for i in range(16):
        high, low = _LOWER_HEX[text[at + 4 + 2 * i]], _LOWER_HEX[text[at + 5 + 2 * i]]
        all_digits |= high | low
        ids[line, i] = (high << 4 | low) & 255
    return all_digits >= 0 and ids[line, 6] >> 4 == 7 and ids[line, 8] >> 6 == 2
