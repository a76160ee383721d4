"""Dead letters of single events, read from Kafka, and lately read ones in memory."""

import asyncio
import time
from collections import OrderedDict
from contextlib import aclosing
from datetime import timedelta
from typing import NamedTuple

from runtime.http.errors import unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.settings import Settings
from runtime.sizes import MIB
from schemas.event_time import from_epoch_ms
from schemas.letter import Letter, Origin
from tally.dead_letters.reading import Selection, read_letters

MAX_KEPT = 256
"""Maximum letters in memory."""
MAX_KEPT_BYTES = 32 * MIB
"""Maximum bytes of the letters in memory."""
KEPT_S = 60.0
"""Seconds after which a letter in memory is read again: its event may have been deleted meanwhile."""

LetterKey = tuple[str, int, int]
"""Namespace, partition and offset."""


class _Kept(NamedTuple):
    letter: Letter
    size: int
    until: float


class KeptLetters:
    """Letters read lately, bounded in number, bytes and time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[LetterKey, _Kept] = OrderedDict()
        self._bytes = 0

    def get(self, key: LetterKey) -> Letter | None:
        """Return a letter that is still in memory."""
        found = self._kept.get(key)
        if found is None or time.monotonic() >= found.until:
            return None
        self._kept.move_to_end(key)
        return found.letter

    def keep(self, key: LetterKey, letter: Letter) -> None:
        """Keep a letter; one that is larger than a quarter of all is not kept."""
        size = _nbytes_of(letter)
        self.forget(key)
        if size > MAX_KEPT_BYTES // 4:
            return
        self._kept[key] = _Kept(letter, size, time.monotonic() + KEPT_S)
        self._bytes += size
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            self.forget(next(iter(self._kept)))

    def forget(self, key: LetterKey) -> None:
        """Drop a letter, if it is in memory."""
        if dropped := self._kept.pop(key, None):
            self._bytes -= dropped.size


class LetterStore:
    """Reader of single letters, bounded in number and time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.limit = InFlightLimit(
            settings.letter_reads_in_flight, "reads of dead letters", "TALLY_LETTER_READS_IN_FLIGHT"
        )
        self.kept = KeptLetters()

    async def read(self, key: LetterKey, append_ms: int) -> Letter | None:
        """Read the letter of a record that was appended at a time. None: the dead-letter topic lacks it.

        Raises ApiError 503 and TallyError.
        """
        namespace, partition, offset = key
        origin = Origin(self._settings.topic, partition, offset)
        selection = selection_since(self._settings, namespace, append_ms, frozenset([origin]))
        with self.limit.slot():
            try:
                async with (
                    asyncio.timeout(self._settings.list_timeout_ms / 1000),
                    aclosing(read_letters(self._settings, selection)) as found,
                ):
                    letter = await anext(found, None)
            except TimeoutError:
                message = "finding the letter in the dead-letter topic takes longer than TALLY_LIST_TIMEOUT_MS"
                raise unavailable(message) from None
        if letter is not None:
            self.kept.keep(key, letter)
        return letter


def selection_since(settings: Settings, namespace: str, append_ms: int, origins: frozenset[Origin]) -> Selection:
    """Select letters of a namespace by origin. The dead-letter topic is read from an append time on."""
    since = from_epoch_ms(max(0, append_ms)) - timedelta(milliseconds=min(append_ms, settings.clock_skew_ms))
    return Selection(namespace=namespace, since=since, origins=origins)


def _nbytes_of(letter: Letter) -> int:
    headers = sum(len(name) + len(raw or b"") for name, raw in letter.headers)
    return len(letter.key or b"") + len(letter.value or b"") + headers
