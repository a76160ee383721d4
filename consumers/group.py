"""Groups: batches that are decided about one by one, and stored, recorded and committed together.

While a worker keeps up, each batch is a group of its own, so its events are visible soon. While more waits at the
broker a group grows: ClickHouse merges fewer parts, and merging is most of what a row costs there.
"""

import time
from collections.abc import Sequence

from consumers.batch import Decided
from consumers.sink import InteractionRows
from runtime.settings import Settings

LONGEST_AGES = 20
"""A group grows no longer than so many times a batch's age, whatever waits: events must become visible."""


class Group:
    """Decided batches in the order in which they were read, and their rows."""

    def __init__(self, settings: Settings, decided: Sequence[Decided] = ()) -> None:
        self._settings = settings
        self.decided: list[Decided] = []
        self.rows = InteractionRows(settings.topic)
        self._records = self._bytes = 0
        self._begun_at = 0.0
        for each in decided:
            self.add(each)

    def __len__(self) -> int:
        return len(self.decided)

    def add(self, decided: Decided) -> None:
        """Take one more."""
        if not self.decided:
            self._begun_at = time.monotonic()
        self.decided.append(decided)
        self.rows.add(decided.verdicts.stored)
        self._records += len(decided.batch)
        self._bytes += decided.batch.records.nbytes

    @property
    def is_full(self) -> bool:
        """Whether it has come to one of its bounds."""
        settings = self._settings
        longest_s = LONGEST_AGES * settings.batch_age_ms / 1000
        return (
            self._records >= settings.batch_rows
            or self._bytes >= settings.batch_bytes
            or (len(self) > 0 and time.monotonic() - self._begun_at >= longest_s)
        )
