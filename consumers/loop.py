"""Loop of a worker: reads batches, decides them and flushes them in groups; also its stop and its rebalances."""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from consumers.assignment import Assignment
from consumers.batch import Batch
from consumers.claims.leases import Leases
from consumers.instance_lock import InstanceLock
from consumers.intake import Intake
from consumers.narrowing import Narrowing
from consumers.pipeline import Pipeline
from consumers.resume import Resume
from consumers.retention import Housekeeping
from consumers.session_signals import SessionSender
from consumers.topic_watch import TopicWatch
from runtime import metrics
from runtime.errors import TallyError, Unavailable
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait

REVOCATION_FRACTION = 0.7
"""Fraction of TALLY_STOP_TIMEOUT_MS that a revocation may take. The group removes members that exceed all of it."""

log = logging.getLogger("tally.worker")

T = TypeVar("T")


class StopRequest:
    """Stop request of a worker, with a deadline."""

    def __init__(self, timeout_ms: int) -> None:
        self._timeout_ms = timeout_ms
        self._deadline = math.inf
        self.event = asyncio.Event()
        """Set once the worker is to stop."""

    def begin(self) -> None:
        """Stop within the timeout; a second call does not lengthen it."""
        self._deadline = min(self._deadline, time.monotonic() + self._timeout_ms / 1000)
        self.event.set()

    async def within_deadline(self, failure: str, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; after a stop request until the deadline at most, then raise Unavailable with `failure`."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self.event.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            grace_s = max(0.0, self._deadline - time.monotonic()) if self.event.is_set() else None
            await asyncio.wait((working,), timeout=grace_s)
            if not working.done():
                raise Unavailable(
                    f"{failure} within TALLY_STOP_TIMEOUT_MS={self._timeout_ms}; "
                    "the next run repeats what is not committed"
                )
            return working.result()
        finally:
            await cancel_and_wait(stopping, working)


@dataclass(frozen=True)
class WorkerParts:
    """Parts of one worker that its loop and its rebalance listener share."""

    consumer: AIOKafkaConsumer
    intake: Intake
    assignment: Assignment
    resume: Resume
    leases: Leases
    pipeline: Pipeline
    sessions: SessionSender
    topic_watch: TopicWatch
    housekeeping: Housekeeping
    instance_lock: InstanceLock | None


class WorkerLoop:
    """Takes the records of a worker's partitions through the pipeline until the worker stops or has caught up."""

    def __init__(
        self,
        settings: Settings,
        parts: WorkerParts,
        stop: StopRequest,
        *,
        until_caught_up: bool,
        ends: Mapping[int, int],
    ) -> None:
        """`ends` (offset per partition) are the first offsets not to take."""
        self.parts = parts
        self._stop_timeout_s = settings.stop_timeout_ms / 1000
        self._topic = settings.topic
        self._stop = stop
        self._until_caught_up = until_caught_up
        self._ends = ends
        self._busy = asyncio.Lock()
        """Held while a batch is being decided about: a rebalance waits for it."""
        self._flush: asyncio.Task[None] | None = None
        """Flush of the group in flight."""

    async def run(self) -> None:
        """Work until stopped, or with `until_caught_up` until nothing is left to read."""
        try:
            await self._work()
        except TallyError:
            # The group in flight is independent of the error: it may end, within the deadline.
            await self._wait_or_cancel(self._stop_timeout_s)
            raise
        finally:
            await self._wait_or_cancel(0)
            await self.parts.housekeeping.close()

    async def _work(self) -> None:
        parts, stop = self.parts, self._stop
        while not stop.event.is_set():
            if parts.assignment.was_received:
                parts.housekeeping.begin_if_due(events_too=parts.assignment.has(0))
            with parts.pipeline.stages.of("read"):
                await parts.intake.fill(stop.event)
            self._check()
            async with self._busy:
                batch = parts.intake.take().before(self._ends)
                await stop.within_deadline("the current batch was not stored", self._process(batch))
            if not batch.slices and self._until_caught_up:
                caught_up = parts.assignment.has_caught_up()
                if await stop.within_deadline("the log's ends were not read", caught_up):
                    break
        await stop.within_deadline("the current batch was not stored", self._flush_and_wait())
        if self._until_caught_up:
            with suppress(Unavailable):
                await stop.within_deadline("retention run did not end", parts.housekeeping.ended())
            parts.assignment.check_held()

    def _check(self) -> None:
        """Raise when this worker must not continue, before the batch that was read is decided about."""
        parts = self.parts
        parts.assignment.check_partitions()
        parts.topic_watch.check()
        if parts.instance_lock is not None:
            parts.instance_lock.check()
        starts = parts.topic_watch.take_starts()
        if starts and not self._ends:
            parts.resume.check_expired(starts, parts.intake.partitions)

    async def _process(self, batch: Batch) -> None:
        """Decide about a batch while earlier ones are flushed, and start its own group's flush when that is due."""
        parts = self.parts
        if len(batch):
            await Narrowing(self._topic, parts.pipeline, self._flush_and_wait).process(batch)
            if parts.pipeline.gathered.is_full or not parts.intake.has_full_batch():
                await self._start_flush()
        else:
            partitions = [place.partition for place in parts.consumer.assignment()]
            await parts.resume.prepare(partitions)
            await self._flush_and_wait()
            await parts.sessions.check(parts.resume.next_offsets(partitions))

    async def _start_flush(self) -> None:
        """Start the flush of the gathered group, once the group before is flushed."""
        pipeline = self.parts.pipeline
        if len(pipeline.gathered):
            with pipeline.stages.of("wait"):
                await self._wait_flushed()
            self._flush = await pipeline.start_flush()

    async def _flush_and_wait(self) -> None:
        await self._start_flush()
        await self._wait_flushed()

    async def _wait_flushed(self) -> None:
        """Wait until nothing is in flight. Raises the flush's error."""
        if self._flush is not None:
            try:
                await self._flush
            finally:
                self._flush = None

    async def _wait_or_cancel(self, timeout_s: float) -> None:
        """Wait for the flush in flight, at most for `timeout_s`, and then cancel it. Raises none of its errors."""
        flush, self._flush = self._flush, None
        if flush is not None:
            await asyncio.wait((flush,), timeout=timeout_s)
            await cancel_and_wait(flush)
            await asyncio.gather(flush, return_exceptions=True)

    async def wait_idle(self) -> None:
        """Wait until no batch is being decided about and no group is in flight. Raises none of their errors."""
        async with self._busy:
            if self._flush is not None:
                await asyncio.wait((self._flush,))


class RebalanceListener(ConsumerRebalanceListener):
    """Settles a worker's batches before partitions are revoked, and forgets their state."""

    def __init__(self, loop: WorkerLoop, stop_timeout_ms: int) -> None:
        self._loop = loop
        self._deadline_s = REVOCATION_FRACTION * stop_timeout_ms / 1000

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Wait until the group in flight is committed, then forget records that were only read.

        While a store is unavailable the group may outlast the deadline. Then the partitions are revoked without it:
        their next worker comes to the same verdicts, and this one can neither claim nor commit any more.
        """
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._loop.wait_idle()
        except TimeoutError:
            log.warning(
                "in-flight batch did not finish before the rebalance deadline (TALLY_STOP_TIMEOUT_MS); "
                "partitions are revoked without it, and their next worker stores it"
            )
        parts, gone = self._loop.parts, list(revoked)
        numbers = [place.partition for place in gone]
        parts.pipeline.forget_gathered()
        parts.intake.forget(gone)
        parts.resume.forget(numbers)
        parts.leases.forget(numbers)
        parts.sessions.forget(numbers)
        parts.assignment.revoke()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note the new assignment; rows stored ahead of its commits are looked up with its first batch."""
        parts, numbers = self._loop.parts, sorted(place.partition for place in assigned)
        parts.assignment.receive()
        # A batch that outlasted the last rebalance may have noted something since.
        parts.resume.forget(numbers)
        parts.leases.forget(numbers)
        parts.sessions.forget(numbers)
        metrics.PARTITIONS.set(len(numbers))
        log.info("assigned partitions %s", ", ".join(map(str, numbers)) or "none")
