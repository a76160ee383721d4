"""Pipeline: the steps of a batch, in the order that makes a crash harmless.

Batches pass step 1 one by one, and the other steps in groups. Neighbouring groups overlap: while one is flushed, the
batches of the next are being decided.

step                        left by a crash after it           the next run
1 claims taken              claims of events not stored yet    finds its own offsets as owners: same verdicts
2 interactions inserted     rows, offsets not committed        finds them stored, skips them, erases deleted ones
  session signals sent      signals, offsets not committed     sends them again; Redis drops offsets it has applied
3 copies of misplaced       copies, offsets not committed      writes them again; their ids make them duplicates
  events, dead letters      letters, offsets not committed     writes them again; readers take equal origins as one
4 outcomes inserted         outcomes, offsets not committed    finds them recorded, skips them
5 offsets committed         nothing                            starts at the next record
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from consumers import failpoints
from consumers.batch import Batch, Counts, DecidedBatch, Range, RejectedRecord, ValidatedBatch, Verdicts
from consumers.dead_letters import DeadLetters
from consumers.dedup import Deduplication
from consumers.erasure import Erasure
from consumers.events import Events
from consumers.group import BatchGroup
from consumers.moves import Mover, ReplayMover
from consumers.reject_fuse import RejectFuses
from consumers.resume import Resume
from consumers.session_signals import SessionSender
from consumers.sink import InsertRows, Sink, encode_outcomes
from consumers.telemetry import Stages, Telemetry
from consumers.validation import Validation
from runtime.errors import RowsRefused
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.rejection import Rejection

log = logging.getLogger("tally.worker")


@dataclass(frozen=True)
class PipelineSteps:
    """Steps of the pipeline in the order of a batch, and its callbacks to the consumer."""

    validation: Validation
    fuses: RejectFuses
    resume: Resume
    mover: Mover | ReplayMover
    deduplication: Deduplication
    erasure: Erasure
    sink: Sink
    sessions: SessionSender
    dead_letters: DeadLetters
    telemetry: Telemetry
    read_again: Callable[[Sequence[Range]], Awaitable[Batch]]
    commit: Callable[[dict[int, int]], Awaitable[None]]
    """Commit of the next offsets, by partition."""
    hold: Callable[[dict[int, int]], None]
    """Read these partitions no further than these offsets."""


class Pipeline:
    """One worker's path from records to rows."""

    def __init__(self, settings: Settings, steps: PipelineSteps) -> None:
        self._settings = settings
        self._steps = steps
        self.counts = Counts()
        self.stages = Stages()
        self._deciding = asyncio.Lock()
        """Held while claims are taken or released."""
        self._era = 0
        """Number of groups that the table refused. Batches that were decided in an earlier era are decided again."""
        self.gathered = BatchGroup(settings)
        """Decided batches that wait for their flush."""
        self._flushing: Sequence[DecidedBatch] = ()
        """Decided batches that are being flushed, and are not committed yet."""

    async def examine(
        self, records: Batch, unprocessable: Rejection | None = None, *, is_counted: bool = False
    ) -> tuple[Batch, ValidatedBatch]:
        """Validate records; return the part of the batch before the first held offset, and its validation.

        With `unprocessable` the batch's one record is rejected for that reason, without parsing it. `is_counted`: an
        earlier examination has counted the records. A partition that has reached a record of a newer schema is handed
        to `hold` with that record's offset. Raises Fenced or Fatal.
        """
        steps = self._steps
        with self.stages.of("validate"):
            validated = self._validate(records, unprocessable)
        if not is_counted:
            steps.telemetry.validated(records, validated.events)
            steps.fuses.count(validated)
        elif unprocessable is not None:
            steps.fuses.refused(validated.rejected[0].namespace, unprocessable)
        if validated.held:
            steps.hold(validated.held)
        batch = records.before(validated.held)
        await failpoints.reached("validated")

        with self.stages.of("resume"):
            await steps.resume.prepare(part.partition for part in batch.slices)
            await steps.resume.check_continuity(batch)
            await self._drop_settled(batch, validated)
        steps.fuses.withhold(batch, validated)
        await failpoints.reached("resumed")
        return batch, validated

    def _validate(self, batch: Batch, unprocessable: Rejection | None) -> ValidatedBatch:
        validation = self._steps.validation
        return validation.validate(batch) if unprocessable is None else validation.refuse(batch, unprocessable)

    async def _drop_settled(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Remove records that are recorded already, and set misplaced events apart."""
        validated.recorded = await self._steps.resume.drop_stored(batch, validated)
        await self._steps.mover.set_apart(batch, validated)

    async def decide(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take a batch through step 1 and add it to the gathered group.

        The group before may be in steps 2 to 5 meanwhile. Raises Fenced, or FlushRequired if earlier batches must be
        committed first.
        """
        async with self._deciding:
            await self._decide(batch, validated, self._uncommitted, self.gathered)
        self.counts.add(already_recorded=validated.recorded - len(validated.withheld))

    async def release(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Release claims of one partition's events, which will be rejected and not stored. Raises as `decide` does."""
        async with self._deciding:
            (part,) = batch.slices
            undecided = validated.events[~validated.done]
            await self._steps.deduplication.release(part, undecided, _ranges_of(self._uncommitted))

    @property
    def _uncommitted(self) -> list[DecidedBatch]:
        return [*self._flushing, *self.gathered.decided]

    async def _decide(
        self, batch: Batch, validated: ValidatedBatch, before: Sequence[DecidedBatch], into: BatchGroup
    ) -> None:
        with self.stages.of("claim"):
            verdicts = await self._steps.deduplication.decide(batch, validated, _ranges_of(before))
        with self.stages.of("erase"):
            deleted = await self._steps.erasure.deleted(verdicts.stored)
        with self.stages.of("encode"):
            signals = self._steps.sessions.collect(verdicts.stored, verdicts.done)
            decided = self._decided(batch, validated, verdicts)
            add = into.encode(decided, verdicts, validated, signals, deleted=deleted)
        # Before any row of the batch: a later run might not withhold these events, and would contradict stored rows.
        if validated.withheld:
            await self._record_rejected(validated.withheld)
        add()

    def _decided(self, batch: Batch, validated: ValidatedBatch, verdicts: Verdicts) -> DecidedBatch:
        stored, duplicates = len(verdicts.stored), len(verdicts.duplicates)
        return DecidedBatch(batch.ranges, stored, duplicates, validated.recorded, self._era, validated.unprocessable)

    def forget_gathered(self) -> None:
        """Forget the gathered group: the next worker of the partitions reaches the same outcomes."""
        self.gathered = BatchGroup(self._settings)
        self._steps.telemetry.forget()

    async def start_flush(self) -> asyncio.Task[None]:
        """Start to take the gathered group through steps 2 to 5; then each event has its outcome, and is committed.

        The group before must be flushed. The task raises Fenced or Fatal; then nothing is committed.
        """
        group = self.gathered
        if any(each.era != self._era for each in group.decided):
            async with self._deciding:
                group = BatchGroup(self._settings)
                for each in self.gathered.decided:
                    await self._decide(*await self._validate_again(each), group.decided, group)
        self.gathered = BatchGroup(self._settings)
        self._flushing = group.decided
        return asyncio.create_task(self._flush(group))

    async def _validate_again(self, decided: DecidedBatch) -> tuple[Batch, ValidatedBatch]:
        """Read and validate a decided batch again: its group has kept only encoded rows."""
        batch = await retrying("reading records again", lambda: self._steps.read_again(decided.ranges))
        validated = self._validate(batch, decided.unprocessable)
        self._steps.resume.expect_stored(batch)
        await self._drop_settled(batch, validated)
        self.counts.add(stored=validated.recorded - decided.recorded)
        return batch, validated

    async def _flush(self, group: BatchGroup) -> None:
        steps = self._steps
        with self.stages.of("store"):
            group = await self._store(group)
        with self.stages.of("erase"):
            gone = await steps.erasure.erase(group.stored_ids)
        await failpoints.reached("erased")
        with self.stages.of("signal"):
            await steps.sessions.send(group.signals, group.offsets, gone)
        await failpoints.reached("signalled")
        if group.moves:
            with self.stages.of("move"):
                group.settle_moves(await steps.mover.send(group.moves))
        await failpoints.reached("copied")
        with self.stages.of("letters"):
            await steps.dead_letters.send(group.rejected)
        await failpoints.reached("lettered")
        with self.stages.of("record"):
            await steps.sink.record(group.outcomes)
        await failpoints.reached("recorded")
        with self.stages.of("commit"):
            await steps.commit(group.next_offsets)
        await failpoints.reached("committed")
        # Only after success: if a flush fails, no later group may claim or commit.
        self._flushing = ()
        steps.telemetry.committed(group)
        self.counts.add(
            stored=sum(each.stored for each in group.decided),
            duplicates=sum(each.duplicates for each in group.decided),
            rejected=len(group.rejected),
            moved=len(group.moves),
        )
        self.counts.inserts += 1

    async def _store(self, group: BatchGroup) -> BatchGroup:
        """Insert the group's rows; when ClickHouse refuses one, decide the batches again without that event."""
        try:
            await self._steps.sink.insert(group.rows)
        except RowsRefused:
            async with self._deciding:
                self._era += 1
                group = await self._store_by_batch(group)
        await failpoints.reached("stored")
        return group

    async def _store_by_batch(self, refused: BatchGroup) -> BatchGroup:
        group = BatchGroup(self._settings)
        for each in refused.decided:
            batch, validated = await self._validate_again(each)
            verdicts = await self._steps.deduplication.decide(batch, validated, ())
            try:
                await self._steps.sink.store(verdicts.stored)
            except RowsRefused:
                verdicts = await self._reject_refused_rows(batch, validated, verdicts)
            signals = self._steps.sessions.collect(verdicts.stored, verdicts.done)
            decided = self._decided(batch, validated, verdicts)
            group.encode(decided, verdicts, validated, signals, is_stored=True)()
        return group

    async def _reject_refused_rows(self, batch: Batch, validated: ValidatedBatch, verdicts: Verdicts) -> Verdicts:
        steps = self._steps
        while True:
            refused = await steps.sink.store_until_refused(verdicts.stored)
            if refused is not None:
                await self._reject(batch, *refused)
            steps.resume.expect_stored(batch)
            settled = await steps.resume.drop_stored(batch, validated)
            self.counts.add(stored=settled - (refused is not None))
            verdicts = await steps.deduplication.decide(batch, validated, ())
            try:
                await steps.sink.store(verdicts.stored)
            except RowsRefused:
                continue
            return verdicts

    async def _reject(self, batch: Batch, events: Events, refused: RowsRefused) -> None:
        """Reject the single event in `events`: it is valid, but the table refuses it.

        Its claim is released first: once its outcome is recorded, no run decides about the event again.
        """
        event = events.at(0)
        log.error(
            "ClickHouse refused the event at partition %d offset %d, which becomes a dead letter: %s",
            event.partition,
            event.offset,
            refused,
        )
        rejection = Rejection("refused_by_table", "", str(refused))
        self._steps.fuses.refused(event.namespace, rejection)
        (part,) = (part for part in batch.slices if part.partition == event.partition)
        await self._steps.deduplication.release(part, events)
        await failpoints.reached("refused")
        record = batch.record(event.partition, event.offset)
        rejected = RejectedRecord(event.partition, record, event.namespace, event.interaction_id, rejection)
        await self._record_rejected([rejected])

    async def _record_rejected(self, rejected: Sequence[RejectedRecord]) -> None:
        """Write dead letters and outcomes of events that are rejected before the rest of their batch is stored."""
        await self._steps.dead_letters.send(rejected)
        await failpoints.reached("lettered")
        outcomes = InsertRows(self._settings.topic)
        for rows in encode_outcomes(self._settings.topic, rejected):
            outcomes.add(*rows)
        await self._steps.sink.record(outcomes)
        self.counts.add(rejected=len(rejected))


def _ranges_of(decided: Sequence[DecidedBatch]) -> list[Range]:
    return [each for one in decided for each in one.ranges]
