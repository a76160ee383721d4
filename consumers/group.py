"""Groups: batches that are decided one by one and flushed together.

While a worker keeps up, each batch is a group of its own, so its events become visible soon. While more records wait at
the broker, a group grows: ClickHouse then merges fewer parts, and merging is half of a row's cost there. A group keeps
encoded rows and not the records, which are five times as large and needed again only if the table refuses a row. It
keeps the records of rejections and of misplaced events, which are written to Kafka again.
"""

import time
from collections.abc import Callable, Sequence

from consumers.batch import DecidedBatch, Move, RejectedRecord, ValidatedBatch, Verdicts
from consumers.claims.owners import raw_ids_of
from consumers.dead_letters import nbytes_of
from consumers.erasure import RawIds
from consumers.events import LineFlags
from consumers.session_events import BatchSignals
from consumers.sink import InsertRows, encode_events, encode_outcomes
from runtime.errors import Restart
from runtime.settings import Settings

MAX_AGE_IN_BATCH_AGES = 50
"""Maximum age of a group as a multiple of TALLY_BATCH_AGE_MS, however much waits: events must become visible."""


class BatchGroup:
    """Decided batches and their rows, in the order in which they were read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.decided: list[DecidedBatch] = []
        self.rows = InsertRows(settings.topic)
        self.outcomes = InsertRows(settings.topic)
        self.rejected: list[RejectedRecord] = []
        self.moves: list[Move] = []
        self.stored_ids: list[RawIds] = []
        """Ids of all events that have rows once the group is stored."""
        self.signals: list[BatchSignals] = []
        """Events of sessions among them."""
        self._records = self._kept_bytes = 0
        self._begun_at = 0.0

    def __len__(self) -> int:
        return len(self.decided)

    def encode(
        self,
        decided: DecidedBatch,
        verdicts: Verdicts,
        validated: ValidatedBatch,
        signals: BatchSignals,
        *,
        deleted: LineFlags | None = None,
        is_stored: bool = False,
    ) -> Callable[[], None]:
        """Encode one more batch without changing the group; the returned function adds it.

        `deleted` flags the stored events that are deleted already; `is_stored`: the rows are in the table already.
        Adding raises Restart when memory runs out.
        """
        topic, rejected, moves = self._settings.topic, validated.rejected, validated.moves
        adding = [(self.outcomes, rows) for rows in encode_outcomes(topic, rejected, verdicts.duplicates)]
        if not is_stored:
            adding.append((self.rows, encode_events(topic, verdicts.stored, deleted)))
        stored_ids = [raw_ids_of(events.rows).copy() for events in (verdicts.stored, verdicts.done)]

        def add() -> None:
            if not self.decided:
                self._begun_at = time.monotonic()
            try:
                for insert, rows in adding:
                    insert.add(*rows)
            except MemoryError as error:
                raise Restart("out of memory while rows were gathered; lower TALLY_BATCH_BYTES") from error
            self.decided.append(decided)
            self.stored_ids += stored_ids
            self.signals.append(signals)
            self.rejected += rejected
            self.moves += moves
            self._records += sum(each.next_offset - each.first_offset for each in decided.ranges)
            self._kept_bytes += signals.nbytes
            self._kept_bytes += sum(nbytes_of(each.record) for each in rejected)
            self._kept_bytes += sum(nbytes_of(each.record) for each in moves)

        return add

    def settle_moves(self, refused: Sequence[RejectedRecord]) -> None:
        """Record the moves as done, except for those that Kafka refused, which are rejected."""
        self.moves = [move for move in self.moves if move.copy_offset >= 0]
        self.rejected += refused
        for rows in encode_outcomes(self._settings.topic, refused, moves=self.moves):
            self.outcomes.add(*rows)

    @property
    def offsets(self) -> dict[int, tuple[int, int]]:
        """First offset, and the one after the last, by partition."""
        firsts: dict[int, int] = {}
        for decided in self.decided:
            for each in decided.ranges:
                firsts.setdefault(each.partition, each.first_offset)
        return {partition: (firsts[partition], following) for partition, following in self.next_offsets.items()}

    @property
    def next_offsets(self) -> dict[int, int]:
        """Offsets to commit, by partition."""
        return {each.partition: each.next_offset for decided in self.decided for each in decided.ranges}

    @property
    def is_full(self) -> bool:
        """Whether the group has reached its maximum rows, bytes or age."""
        settings = self._settings
        max_age_s = MAX_AGE_IN_BATCH_AGES * settings.batch_age_ms / 1000
        return (
            self._records >= settings.batch_rows
            or self.rows.nbytes + self.outcomes.nbytes + self._kept_bytes >= settings.batch_bytes
            or (len(self) > 0 and time.monotonic() - self._begun_at >= max_age_s)
        )
