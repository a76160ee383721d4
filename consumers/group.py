"""Groups: batches that are decided about one by one, and stored, recorded and committed together.

While a worker keeps up, each batch is a group of its own, so its events are visible soon. While more waits at the
broker a group grows: ClickHouse merges fewer parts, and that is half of what a row costs there. A group has its rows,
encoded, and no longer its records: they are five times as large, and wanted again only if the table refuses a row. It
keeps the records of rejections and of misplaced events, which are written to Kafka once more.
"""

import time
from collections.abc import Callable, Sequence

from consumers.batch import Decided, Move, Rejected, Verdicts
from consumers.claims.owners import raw_ids_of
from consumers.erasure import RawIds
from consumers.events import Flags
from consumers.letters import nbytes_of
from consumers.sink import InteractionRows, OutcomeRows
from runtime.errors import Restart
from runtime.settings import Settings

LONGEST_AGES = 50
"""A group grows for at most this many times a batch's age, whatever waits: events must become visible."""


class Group:
    """Decided batches and their rows, in the order in which they were read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.decided: list[Decided] = []
        self.rows = InteractionRows(settings.topic)
        self.outcomes = OutcomeRows(settings.topic)
        self.rejected: list[Rejected] = []
        self.moves: list[Move] = []
        self.stored_ids: list[RawIds] = []
        """Of all events that have rows once it is stored."""
        self._records = self._kept_bytes = 0
        self._begun_at = 0.0

    def __len__(self) -> int:
        return len(self.decided)

    def prepared(
        self,
        decided: Decided,
        verdicts: Verdicts,
        rejected: Sequence[Rejected],
        moves: Sequence[Move],
        *,
        deleted: Flags | None = None,
        is_stored: bool = False,
    ) -> Callable[[], None]:
        """Encode one more batch. Calling the answer takes it in; the group is as it was before.

        `deleted`: which of those to store; `is_stored`: its rows are in the table already.
        """
        adding = [self.outcomes.prepared(verdicts.duplicates, rejected)]
        if not is_stored:
            adding.append(self.rows.prepared(verdicts.stored, deleted))
        stored_ids = [raw_ids_of(events.rows).copy() for events in (verdicts.stored, verdicts.done)]

        def add() -> None:
            if not self.decided:
                self._begun_at = time.monotonic()
            try:
                for each in adding:
                    each()
            except MemoryError as error:
                raise Restart("out of memory while rows were gathered; lower TALLY_BATCH_BYTES") from error
            self.decided.append(decided)
            self.stored_ids += stored_ids
            self.rejected += rejected
            self.moves += moves
            self._records += sum(each.next_offset - each.first_offset for each in decided.ranges)
            self._kept_bytes += sum(nbytes_of(each.record) for each in rejected)
            self._kept_bytes += sum(nbytes_of(each.record) for each in moves)

        return add

    def settle_moves(self, refused: Sequence[Rejected]) -> None:
        """Note what came of the moves: copies are on their partitions, but for those that were refused."""
        self.moves = [move for move in self.moves if move.copy_offset >= 0]
        self.rejected += refused
        self.outcomes.add_moves(self.moves)
        self.outcomes.prepared(None, refused)()

    @property
    def next_offsets(self) -> dict[int, int]:
        """Offsets to commit, by partition."""
        return {each.partition: each.next_offset for decided in self.decided for each in decided.ranges}

    @property
    def is_full(self) -> bool:
        """Whether it has come to one of its bounds."""
        settings = self._settings
        longest_s = LONGEST_AGES * settings.batch_age_ms / 1000
        return (
            self._records >= settings.batch_rows
            or self.rows.nbytes + self.outcomes.nbytes + self._kept_bytes >= settings.batch_bytes
            or (len(self) > 0 and time.monotonic() - self._begun_at >= longest_s)
        )
