"""The pipeline: what happens to one batch, in the order that makes a crash harmless.

step                        a crash after it leaves            the next run
1 claims taken              claims of events not stored yet    finds its own offsets as owners: same verdicts
2 interactions inserted     rows without a commit              finds them stored, skips them
3 dead letters written      letters without a commit           writes them again; their origin makes them one
4 outcomes inserted         outcomes without a commit          finds them recorded, skips them
5 offsets committed         nothing                            starts at the next record
"""

from collections.abc import Awaitable, Callable

from consumers.batch import Batch, Counts
from consumers.ceiling import RejectCeiling
from consumers.dedup import Deduplication
from consumers.letters import Letters
from consumers.resume import Resume
from consumers.sink import Sink
from consumers.validation import Validation

Commit = Callable[[Batch], Awaitable[None]]


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
    ) -> None:
        self._validation = validation
        self._ceiling = ceiling
        self._resume = resume
        self._deduplication = deduplication
        self._sink = sink
        self._letters = letters
        self._commit = commit
        self.counts = Counts()

    async def process(self, batch: Batch) -> None:
        """Take a batch through all steps. On return each of its events has its outcome, and is committed."""
        judged = self._validation.judge(batch)
        if self._ceiling is not None:
            self._ceiling.check(judged)
        already_recorded = await self._resume.drop_stored(batch, judged)
        verdicts = await self._deduplication.decide(judged.events)
        await self._sink.store(verdicts.stored)
        await self._letters.send(judged.rejected)
        await self._sink.record(verdicts.duplicates, judged.rejected)
        await self._commit(batch)

        counts = self.counts
        counts.stored += len(verdicts.stored)
        counts.duplicates += len(verdicts.duplicates)
        counts.rejected += len(judged.rejected)
        counts.already_recorded += already_recorded
        counts.misplaced += judged.misplaced
        counts.batches += 1
