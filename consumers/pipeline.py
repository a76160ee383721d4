"""The pipeline: what happens to a batch, in the order that makes a crash harmless.

Batches go through step 1 one by one, and through the others in groups. Neighbouring groups overlap: while one is
stored, the batches of the next are decided about.

step                        a crash after it leaves            the next run
1 claims taken              claims of events not stored yet    finds its own offsets as owners: same verdicts
2 interactions inserted     rows without a commit              finds them stored, skips them, erases what is deleted
3 copies of misplaced       copies without a commit            writes them again; their ids make them duplicates
  events, dead letters      letters without a commit           writes them again; their origin makes them one
4 outcomes inserted         outcomes without a commit          finds them recorded, skips them
5 offsets committed         nothing                            starts at the next record
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from consumers import failpoints
from consumers.batch import Batch, Counts, Decided, Range, Rejected, ValidatedBatch, Verdicts
from consumers.dedup import Deduplication
from consumers.erasure import Erasure
from consumers.events import Event
from consumers.group import Group
from consumers.letters import Letters
from consumers.moves import Mover
from consumers.reject_fuse import RejectFuses
from consumers.resume import Resume
from consumers.sink import OutcomeRows, Sink
from consumers.stages import Stages
from consumers.telemetry import Telemetry
from consumers.validation import Validation
from runtime.errors import RowsRefused
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.rejection import Rejection

log = logging.getLogger("tally.worker")


class Source(NamedTuple):
    """Operations on the log, besides reading its records."""

    read_again: Callable[[Sequence[Range]], Awaitable[Batch]]
    commit: Callable[[dict[int, int]], Awaitable[None]]
    hold: Callable[[dict[int, int]], None]
    """Read these partitions no further than these offsets."""


class Outlets(NamedTuple):
    """Where it goes what is decided."""

    sink: Sink
    erasure: Erasure
    letters: Letters
    moves: Mover


class Pipeline:
    """One worker's path from records to rows."""

    def __init__(
        self,
        settings: Settings,
        *,
        validation: Validation,
        fuses: RejectFuses,
        resume: Resume,
        deduplication: Deduplication,
        source: Source,
        outlets: Outlets,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._validation = validation
        self._fuses = fuses
        self._resume = resume
        self._deduplication = deduplication
        self._sink, self._erasure, self._letters, self._moves = outlets
        self._source = source
        self.counts = Counts()
        self.stages = Stages()
        self._telemetry = telemetry
        self._deciding = asyncio.Lock()
        """Held while claims are asked for or taken back."""
        self._era = 0
        """How often an event was refused: what was decided about later ones before is void."""
        self._gathered = Group(settings)
        self._finishing: Sequence[Decided] = ()
        """Those that are being stored: they are not committed yet."""

    async def examine(
        self, records: Batch, unprocessable: Rejection | None = None, *, is_counted: bool = False
    ) -> tuple[Batch, ValidatedBatch]:
        """Validate records; returns those that may be resumed, and what they are validated to be.

        With `unprocessable` the one record is rejected for that, unseen. `is_counted`: it was examined before.
        A partition that has come to a record of a newer schema is handed to `hold` with that record's offset. Raises
        Fenced or Fatal.
        """
        with self.stages.of("validate"):
            validated = self._validated(records, unprocessable)
        if not is_counted:
            self._telemetry.validated(records, validated.events)
            self._fuses.count(validated)
        elif unprocessable is not None:
            self._fuses.refused(validated.rejected[0].namespace, unprocessable)
        if validated.held:
            self._source.hold(validated.held)
        batch = records.before(validated.held)
        await failpoints.reached("validated")

        with self.stages.of("resume"):
            await self._resume.prepare(part.partition for part in batch.slices)
            await self._resume.check_continuity(batch)
            await self._drop_settled(batch, validated)
        self._fuses.withhold(batch, validated)
        await failpoints.reached("resumed")
        return batch, validated

    def _validated(self, batch: Batch, unprocessable: Rejection | None) -> ValidatedBatch:
        validate = self._validation.validate
        return validate(batch) if unprocessable is None else self._validation.refuse(batch, unprocessable)

    async def _drop_settled(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take out what is recorded already, and what another partition is to decide about."""
        validated.recorded = await self._resume.drop_stored(batch, validated)
        await self._moves.set_apart(batch, validated)

    async def decide(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take a batch through step 1, and put it to those gathered; those before may go through the others meanwhile.

        Raises Fenced; and Unsettled when the batches before have to be finished first.
        """
        async with self._deciding:
            await self._decide(batch, validated, self._uncommitted, self._gathered)
        self.counts.add(already_recorded=validated.recorded - len(validated.withheld))

    async def release(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take back what events of one partition claim that are not stored. Raises as `decide` does."""
        async with self._deciding:
            (part,) = batch.slices
            claims = validated.events[~validated.done].claims
            await self._deduplication.release(part, claims, _ranges_of(self._uncommitted))

    @property
    def _uncommitted(self) -> list[Decided]:
        return [*self._finishing, *self._gathered.decided]

    async def _decide(self, batch: Batch, validated: ValidatedBatch, before: Sequence[Decided], into: Group) -> None:
        with self.stages.of("claim"):
            ranges = _ranges_of(before)
            verdicts = await self._deduplication.decide(batch, validated, ranges)
        with self.stages.of("erase"):
            deleted = await self._erasure.deleted(verdicts.stored)
        with self.stages.of("encode"):
            decided = self._decided(batch, validated, verdicts)
            add = into.prepared(decided, verdicts, validated.rejected, validated.moves, deleted=deleted)
        # Before any row of the batch: another run may not hold these, and must not contradict what is stored.
        if validated.withheld:
            await self._record_rejected(validated.withheld)
        add()

    def _decided(self, batch: Batch, validated: ValidatedBatch, verdicts: Verdicts) -> Decided:
        stored, duplicates = len(verdicts.stored), len(verdicts.duplicates)
        return Decided(batch.ranges, stored, duplicates, validated.recorded, self._era, validated.unprocessable)

    @property
    def gathered(self) -> Group:
        """The group that is decided and waits to be stored."""
        return self._gathered

    def forget_gathered(self) -> None:
        """Forget the gathered group: the next owner of the partitions comes to the same outcomes."""
        self._gathered = Group(self._settings)
        self._telemetry.forget()

    async def finish(self) -> asyncio.Task[None]:
        """Begin to take what is gathered through the other steps; then each event has its outcome, and is committed.

        The group before must be finished. The task raises Fenced or Fatal; then nothing is committed.
        """
        group = self._gathered
        if any(each.era != self._era for each in group.decided):
            async with self._deciding:
                group = Group(self._settings)
                for each in self._gathered.decided:
                    await self._decide(*await self._again(each), group.decided, group)
        self._gathered = Group(self._settings)
        self._finishing = group.decided
        return asyncio.create_task(self._finish(group))

    async def _again(self, decided: Decided) -> tuple[Batch, ValidatedBatch]:
        """A batch and what it was validated to be: that was given up when it was decided about."""
        batch = await retrying("reading again", lambda: self._source.read_again(decided.ranges))
        validated = self._validated(batch, decided.unprocessable)
        self._resume.expect_stored(batch)
        await self._drop_settled(batch, validated)
        self.counts.add(stored=validated.recorded - decided.recorded)
        return batch, validated

    async def _finish(self, group: Group) -> None:
        with self.stages.of("store"):
            group = await self._store(group)
        with self.stages.of("erase"):
            await self._erasure.erase(group.stored_ids)
        await failpoints.reached("erased")
        if group.moves:
            with self.stages.of("move"):
                group.settle_moves(await self._moves.send(group.moves))
        await failpoints.reached("copied")
        with self.stages.of("letters"):
            await self._letters.send(group.rejected)
        await failpoints.reached("lettered")
        with self.stages.of("record"):
            await self._sink.record(group.outcomes)
        await failpoints.reached("recorded")
        with self.stages.of("commit"):
            await self._source.commit(group.next_offsets)
        await failpoints.reached("committed")
        # Not when it failed: then nothing behind this group may be taken or committed any more.
        self._finishing = ()
        self._telemetry.committed(group)
        self.counts.add(
            stored=sum(each.stored for each in group.decided),
            duplicates=sum(each.duplicates for each in group.decided),
            rejected=len(group.rejected),
            moved=len(group.moves),
        )
        self.counts.inserts += 1

    async def _store(self, group: Group) -> Group:
        """Store what is to be stored; decide again without each event that ClickHouse refuses."""
        try:
            await self._sink.insert(group.rows)
        except RowsRefused:
            async with self._deciding:
                self._era += 1
                group = await self._stored_one_by_one(group)
        await failpoints.reached("stored")
        return group

    async def _stored_one_by_one(self, refused: Group) -> Group:
        group = Group(self._settings)
        for each in refused.decided:
            batch, validated = await self._again(each)
            verdicts = await self._deduplication.decide(batch, validated, ())
            try:
                await self._sink.store(verdicts.stored)
            except RowsRefused:
                verdicts = await self._store_without_refused(batch, validated, verdicts)
            decided = self._decided(batch, validated, verdicts)
            group.prepared(decided, verdicts, validated.rejected, validated.moves, is_stored=True)()
        return group

    async def _store_without_refused(self, batch: Batch, validated: ValidatedBatch, verdicts: Verdicts) -> Verdicts:
        while True:
            refused = await self._sink.first_refused(verdicts.stored)
            if refused is not None:
                await self._reject(batch, *refused)
            self._resume.expect_stored(batch)
            settled = await self._resume.drop_stored(batch, validated)
            self.counts.add(stored=settled - (refused is not None))
            verdicts = await self._deduplication.decide(batch, validated, ())
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
        self._fuses.refused(event.namespace, rejection)
        (part,) = (part for part in batch.slices if part.partition == event.partition)
        await self._deduplication.release(part, event.claims)
        await failpoints.reached("refused")
        record = batch.record(event.partition, event.offset)
        await self._record_rejected(
            [Rejected(event.partition, record, event.namespace, event.interaction_id, rejection)]
        )

    async def _record_rejected(self, rejected: Sequence[Rejected]) -> None:
        """Write dead letters and outcomes of events that are rejected before the others of their batch are stored."""
        await self._letters.send(rejected)
        await failpoints.reached("lettered")
        outcomes = OutcomeRows(self._settings.topic)
        outcomes.prepared(None, rejected)()
        await self._sink.record(outcomes)
        self.counts.add(rejected=len(rejected))


def _ranges_of(decided: Sequence[Decided]) -> list[Range]:
    return [each for one in decided for each in one.ranges]
