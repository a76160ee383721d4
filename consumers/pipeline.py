"""The pipeline: what happens to one batch, in the order that makes a crash harmless.

step                        a crash after it leaves            the next run
1 claims taken              claims of events not stored yet    finds its own offsets as owners: same verdicts
2 interactions inserted     rows without a commit              finds them stored, skips them
3 dead letters written      letters without a commit           writes them again; their origin makes them one
4 outcomes inserted         outcomes without a commit          finds them recorded, skips them
5 offsets committed         nothing                            starts at the next record
"""

import logging
from collections.abc import Awaitable, Callable

from consumers import seams
from consumers.batch import Batch, Counts, Event, Judged, Rejected, Verdicts
from consumers.ceiling import RejectCeiling
from consumers.dedup import Deduplication
from consumers.letters import Letters
from consumers.resume import Resume
from consumers.sink import Sink
from consumers.validation import Validation
from runtime.faults import RowsRefused
from schemas.rejection import Rejection

Commit = Callable[[dict[int, int]], Awaitable[None]]
Hold = Callable[[dict[int, int]], None]

log = logging.getLogger("tally.worker")


class Pipeline:
    """One worker's path from records to rows."""

    def __init__(
        self,
        *,
        validation: Validation,
        ceiling: RejectCeiling | None,
        resume: Resume,
        deduplication: Deduplication,
        sink: Sink,
        letters: Letters,
        commit: Commit,
        hold: Hold,
    ) -> None:
        self._validation = validation
        self._ceiling = ceiling
        self._resume = resume
        self._deduplication = deduplication
        self._sink = sink
        self._letters = letters
        self._commit = commit
        self._hold = hold
        self.counts = Counts()

    async def process(self, batch: Batch) -> None:
        """Take a batch through all steps. On return each of its events has its outcome, and is committed.

        A partition that has come to a record of a newer schema is handed to `hold` with that record's offset, and
        is committed up to there. Raises Fenced, Fatal or TooManyRejects; then nothing is committed.
        """
        judged = self._validation.judge(batch)
        if self._ceiling is not None:
            self._ceiling.check(judged)
        batch = batch.before(judged.held)
        await seams.reached("judged")

        await self._resume.prepare(part.partition for part in batch.slices)
        await self._resume.check_continuity(batch)
        verdicts = await self._store(batch, judged)
        await self._letters.send(judged.rejected)
        await seams.reached("lettered")
        await self._sink.record(verdicts.duplicates, judged.rejected)
        await seams.reached("recorded")
        await self._commit(batch.next_offsets)
        await seams.reached("committed")

        if judged.held:
            self._hold(judged.held)
        counts = self.counts
        counts.stored += len(verdicts.stored)
        counts.duplicates += len(verdicts.duplicates)
        counts.rejected += len(judged.rejected)
        counts.misplaced += judged.misplaced
        counts.batches += 1

    async def _store(self, batch: Batch, judged: Judged) -> Verdicts:
        """Decide on what is not stored yet and store it; anew without each event that ClickHouse refuses."""
        counts = self.counts
        counts.already_recorded += await self._resume.drop_stored(batch, judged)
        await seams.reached("resumed")
        while True:
            verdicts = await self._deduplication.decide(batch, judged)
            try:
                await self._sink.store(verdicts.stored)
            except RowsRefused:
                refused = await self._sink.first_refused(verdicts.stored)
                if refused is not None:
                    await self._reject(batch, *refused)
                self._resume.expect_stored(batch)
                settled = await self._resume.drop_stored(batch, judged)
                counts.stored += settled - (refused is not None)
            else:
                await seams.reached("stored")
                return verdicts

    async def _reject(self, batch: Batch, event: Event, refused: RowsRefused) -> None:
        """Make a rejection of a valid event that the table will not take.

        Its claim goes first: once its outcome is recorded nobody looks at the event again.
        """
        log.error("partition %d offset %d: %s", event.partition, event.offset, refused)
        rejection = Rejection("refused_by_table", "", str(refused))
        if self._ceiling is not None:
            self._ceiling.refused(rejection)
        (part,) = (part for part in batch.slices if part.partition == event.partition)
        await self._deduplication.release(part, event)
        await seams.reached("refused")
        record = batch.record(event.partition, event.offset)
        rejected = [Rejected(record, event.namespace, event.interaction_id, rejection)]
        await self._letters.send(rejected)
        await self._sink.record([], rejected)
        self.counts.rejected += 1
