"""The pipeline: what happens to one batch, in the order that makes a crash harmless.

Two neighbouring batches overlap: while one is taken through steps 2 to 5, the next one goes through step 1.

step                        a crash after it leaves            the next run
1 claims taken              claims of events not stored yet    finds its own offsets as owners: same verdicts
2 interactions inserted     rows without a commit              finds them stored, skips them
3 dead letters written      letters without a commit           writes them again; their origin makes them one
4 outcomes inserted         outcomes without a commit          finds them recorded, skips them
5 offsets committed         nothing                            starts at the next record
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from consumers import seams
from consumers.batch import Batch, Counts, Decided, Event, Judged, Rejected, Verdicts
from consumers.ceiling import RejectCeiling
from consumers.dedup import Deduplication
from consumers.letters import Letters
from consumers.resume import Resume
from consumers.sink import Sink
from consumers.stages import Stages
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
        self.stages = Stages()
        self._deciding = asyncio.Lock()
        """Held while claims are asked for or taken back."""
        self._era = 0
        """How often an event was refused: what was decided about later ones before is void."""
        self._finishing: Batch | None = None
        """The batch that is not committed yet."""

    async def examine(self, records: Batch) -> tuple[Batch, Judged]:
        """Judge records; returns those that may be gone on with, and what they are judged to be.

        A partition that has come to a record of a newer schema is handed to `hold` with that record's offset. Raises
        Fenced, Fatal or TooManyRejects.
        """
        with self.stages.of("validate"):
            judged = self._validation.judge(records)
        if self._ceiling is not None:
            self._ceiling.check(judged)
        if judged.held:
            self._hold(judged.held)
        batch = records.before(judged.held)
        await seams.reached("judged")

        with self.stages.of("resume"):
            await self._resume.prepare(part.partition for part in batch.slices)
            await self._resume.check_continuity(batch)
            self.counts.already_recorded += await self._resume.drop_stored(batch, judged)
        await seams.reached("resumed")
        return batch, judged

    async def decide(self, batch: Batch, judged: Judged) -> Decided:
        """Take a batch through step 1; the one before it may be going through the others meanwhile.

        Raises Fenced; and Unsettled when the batch before has to be finished first.
        """
        async with self._deciding:
            with self.stages.of("claim"):
                verdicts = await self._deduplication.decide(batch, judged, self._finishing)
            return Decided(batch, judged, verdicts, self._era)

    def is_void(self, decided: Decided) -> bool:
        """Whether it must be decided about again."""
        return decided.era != self._era

    def finish(self, decided: Decided) -> asyncio.Task[None]:
        """Begin to take a batch through the other steps; then each of its events has its outcome, and is committed.

        The batch before must be finished. The task raises Fenced, Fatal or TooManyRejects; then nothing is committed.
        """
        self._finishing = decided.batch
        return asyncio.create_task(self._finish(decided))

    async def _finish(self, decided: Decided) -> None:
        batch, judged = decided.batch, decided.judged
        with self.stages.of("store"):
            verdicts = await self._store(decided)
        with self.stages.of("letters"):
            await self._letters.send(judged.rejected)
        await seams.reached("lettered")
        with self.stages.of("record"):
            await self._sink.record(verdicts.duplicates, judged.rejected)
        await seams.reached("recorded")
        with self.stages.of("commit"):
            await self._commit(batch.next_offsets)
        await seams.reached("committed")
        # Not when it failed: then nothing behind this batch may be taken or committed any more.
        self._finishing = None
        counts = self.counts
        counts.stored += len(verdicts.stored)
        counts.duplicates += len(verdicts.duplicates)
        counts.rejected += len(judged.rejected)
        counts.misplaced += judged.misplaced
        counts.batches += 1

    async def _store(self, decided: Decided) -> Verdicts:
        """Store what is to be stored; decide anew without each event that ClickHouse refuses."""
        verdicts = decided.verdicts
        try:
            await self._sink.store(verdicts.stored)
        except RowsRefused:
            async with self._deciding:
                self._era += 1
                verdicts = await self._store_without_refused(decided.batch, decided.judged, verdicts)
        await seams.reached("stored")
        return verdicts

    async def _store_without_refused(self, batch: Batch, judged: Judged, verdicts: Verdicts) -> Verdicts:
        counts = self.counts
        while True:
            refused = await self._sink.first_refused(verdicts.stored)
            if refused is not None:
                await self._reject(batch, *refused)
            self._resume.expect_stored(batch)
            settled = await self._resume.drop_stored(batch, judged)
            counts.stored += settled - (refused is not None)
            verdicts = await self._deduplication.decide(batch, judged, None)
            try:
                await self._sink.store(verdicts.stored)
            except RowsRefused:
                continue
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
        rejected = [Rejected(event.partition, record, event.namespace, event.interaction_id, rejection)]
        await self._letters.send(rejected)
        await self._sink.record([], rejected)
        self.counts.rejected += 1
