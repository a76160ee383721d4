"""One worker process: `python -m consumers.worker`. Its settings come through the environment."""

import argparse
import asyncio
import gc
import logging
import math
import os
import signal
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from consumers.batch import Batch, Counts
from consumers.ceiling import RejectCeiling
from consumers.dedup import Deduplication
from consumers.intake import Intake
from consumers.leases import Leases, Unsettled
from consumers.letters import Letters
from consumers.offsets import Offsets
from consumers.pipeline import Pipeline
from consumers.rebuild import Rebuild
from consumers.resume import Resume
from consumers.retention import expire_outcomes
from consumers.sink import Sink
from consumers.stored_owners import StoredOwners
from consumers.validation import Validation
from runtime import kafka, log
from runtime.claims import Claims, Fenced
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import Fatal, TallyError, Unavailable
from runtime.migrate import check_partition_count, check_schema, partition_count_changed
from runtime.redis import Redis, connect_redis
from runtime.retry import retrying
from runtime.settings import Settings

EXPIRE_EVERY_S = 3600.0
COLLECT_EVERY_S = 10.0

Result = TypeVar("Result")

logger = logging.getLogger("tally.worker")


class Worker(ConsumerRebalanceListener):
    """Reads its partitions' records and takes them through the pipeline until told to stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        instance: str | None,
        until_caught_up: bool,
        ends: Mapping[int, int] | None = None,
    ) -> None:
        """With `ends` (an offset per partition) it reads no further than that, and stops there."""
        self._settings = settings
        self._instance = instance
        self._until_caught_up = until_caught_up or ends is not None
        self._ends = dict(ends or {})
        self.counts = Counts()
        """What it has done so far."""
        self._stop = asyncio.Event()
        self._stop_by = math.inf
        self._busy = asyncio.Lock()
        """Held while a batch is being decided about: a rebalance waits for it."""
        self._finishing: asyncio.Task[None] | None = None
        """The batch that is being stored."""
        self._joined = False
        self._held: dict[int, int] = {}
        """Partition -> offset it waits at: a record there is of a newer schema."""
        self._consumer: AIOKafkaConsumer
        self._intake: Intake
        self._resume: Resume
        self._leases: Leases

    def stop(self) -> None:
        """Finish what was read, commit, leave."""
        self._stop_by = min(self._stop_by, time.monotonic() + self._settings.stop_timeout_ms / 1000)
        self._stop.set()

    async def run(self) -> Counts:
        """Work until stopped, or with `until_caught_up` until nothing is left to read."""
        settings = self._settings
        async with AsyncExitStack() as stack:
            database = await stack.enter_async_context(connect(settings))
            await check_schema(settings, database)
            async with kafka.admin(settings) as admin:
                await kafka.check_topic(admin, settings.topic)
            redis = await stack.enter_async_context(connect_redis(settings))
            letters = await stack.enter_async_context(kafka.producer(settings, letters=True))
            self._partitions = len(await letters.partitions_for(settings.topic))
            await check_partition_count(settings, database, self._partitions)
            self._consumer = await stack.enter_async_context(kafka.consumer(settings, instance=self._instance))
            self._intake = Intake(self._consumer, settings)
            pipeline = self._assemble(database, redis, letters)
            self.counts = pipeline.counts
            self._consumer.subscribe([settings.topic], listener=self)
            try:
                await self._loop(pipeline, database)
            except TallyError:
                await self._let_finish(settings.stop_timeout_ms / 1000)
                raise
            finally:
                await self._let_finish(0)
        logger.info("stages: %s", pipeline.stages.as_text())
        logger.info("stopped: %s", self.counts.as_text())
        return self.counts

    def _assemble(self, database: ClickHouse, redis: Redis, letters: AIOKafkaProducer) -> Pipeline:
        settings = self._settings
        claims = Claims(redis, settings)
        offsets = Offsets(self._consumer, settings)
        self._resume = Resume(settings.topic, database, self._consumer)
        self._leases = Leases(claims, self._resume, Rebuild(settings, claims, database), offsets.confirm)
        return Pipeline(
            validation=Validation(settings.topic, settings.namespace, self._partitions),
            ceiling=None if settings.accept_rejects else RejectCeiling(settings.reject_window),
            resume=self._resume,
            deduplication=Deduplication(self._leases, StoredOwners(settings, database)),
            sink=Sink(settings.topic, database),
            letters=Letters(settings.topic, settings.letters_topic, letters),
            commit=offsets.commit,
            hold=self._hold,
        )

    async def _loop(self, pipeline: Pipeline, database: ClickHouse) -> None:
        expire_at = collect_at = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= collect_at:
                gc.collect()
                collect_at = time.monotonic() + COLLECT_EVERY_S
            if time.monotonic() >= expire_at:
                await self._unless_stopped("outcomes were not expired", self._expire(database))
                expire_at = time.monotonic() + EXPIRE_EVERY_S
            with pipeline.stages.of("read"):
                await self._intake.fill(self._stop)
            self._check_partitions()
            async with self._busy:
                batch = self._intake.take().before(self._ends)
                await self._unless_stopped("the last batch was not stored", self._process(pipeline, batch))
            if not batch.slices and self._until_caught_up:
                asking = self._has_caught_up()
                if await self._unless_stopped("whether everything is read could not be told", asking):
                    break
        await self._unless_stopped("the last batch was not stored", self._finished())
        if self._held and self._until_caught_up:
            raise Fatal(
                f"waiting at records of a newer schema (partition: offset): {self._held}; upgrade this consumer"
            )

    async def _process(self, pipeline: Pipeline, records: Batch) -> None:
        """Decide about a batch while the one before it is being stored, and then have it stored too."""
        if not records.slices:
            await self._finished()
            await self._resume.prepare(partition.partition for partition in self._consumer.assignment())
            return
        batch, judged = await pipeline.examine(records)
        try:
            decided = await pipeline.decide(batch, judged)
        except Unsettled:
            await self._finished()
            decided = await pipeline.decide(batch, judged)
        with pipeline.stages.of("wait for the batch before"):
            await self._finished()
        if pipeline.is_void(decided):
            decided = await pipeline.decide(batch, judged)
        self._finishing = pipeline.finish(decided)

    async def _let_finish(self, timeout_s: float) -> None:
        """An error elsewhere is none of the business of the batch in flight: it may end, but not for ever."""
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            await asyncio.wait((finishing,), timeout=timeout_s)
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)

    async def _finished(self) -> None:
        """Until nothing is in flight. Raises what went wrong with it."""
        if self._finishing is not None:
            try:
                await self._finishing
            finally:
                self._finishing = None

    async def _expire(self, database: ClickHouse) -> None:
        """Housekeeping: what it cannot do now it can do in an hour."""
        try:
            await expire_outcomes(database, self._settings.outcomes_days)
        except TallyError as error:
            logger.warning("outcomes were not expired: %s", error)

    def _check_partitions(self) -> None:
        now = len(self._consumer.partitions_for_topic(self._settings.topic) or ())
        if now not in (0, self._partitions):
            raise Fatal(partition_count_changed(self._settings.topic, self._partitions, now))

    async def _unless_stopped(self, failure: str, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`; once the worker is to stop, it may take only so much longer."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            grace_s = max(0.0, self._stop_by - time.monotonic()) if self._stop.is_set() else None
            await asyncio.wait((working,), timeout=grace_s)
            if not working.done():
                raise Unavailable(
                    f"{failure} within TALLY_STOP_TIMEOUT_MS={self._settings.stop_timeout_ms}; "
                    "nothing of it is committed, and the next run takes it up again"
                )
            return working.result()
        finally:
            stopping.cancel()
            working.cancel()

    async def _has_caught_up(self) -> bool:
        if not self._joined:
            return False
        ours = {each for each in self._consumer.assignment() if each.partition not in self._held}
        ends = await retrying("reading end offsets", lambda: kafka.end_offsets(self._consumer, ours))
        try:
            return all([await self._consumer.position(place) >= min(ends[place], self._end(place)) for place in ours])
        except (IllegalStateError, KafkaError):
            return False  # a rebalance came in between: look again

    def _end(self, place: TopicPartition) -> float:
        return self._ends.get(place.partition, math.inf)

    def _hold(self, offsets: dict[int, int]) -> None:
        """Leave partitions unread from these offsets on, until this worker is replaced by a newer one."""
        for partition, offset in offsets.items():
            place = TopicPartition(self._settings.topic, partition)
            if place not in self._consumer.assignment():
                raise Fenced(f"partition {partition} went to another worker while its records were worked on")
            self._consumer.pause(place)
            self._consumer.seek(place, offset)
            self._held[partition] = offset

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Let the batch in flight end and be committed, then forget what was only read.

        A store that is away may keep it longer than the group waits. Then the partitions go without it: whoever
        gets them comes to the same verdicts, and this worker can neither claim nor commit any more.
        """
        try:
            # Less than the group waits: who comes back too late has been given up by it.
            async with asyncio.timeout(0.7 * self._settings.stop_timeout_ms / 1000):
                async with self._busy:
                    if self._finishing is not None:
                        await asyncio.wait((self._finishing,))
        except TimeoutError:
            logger.warning("the batch in flight outlasts the rebalance (TALLY_STOP_TIMEOUT_MS)")
        self._joined = False
        gone = list(revoked)
        numbers = [partition.partition for partition in gone]
        self._intake.forget(gone)
        self._resume.forget(numbers)
        self._leases.forget(numbers)
        self._held.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note the new share; what is stored ahead of it is asked for with its first batch."""
        self._joined = True
        # A batch that outlasted the last rebalance may have left something behind.
        self._resume.forget(partition.partition for partition in assigned)
        self._leases.forget(partition.partition for partition in assigned)
        numbers = sorted(partition.partition for partition in assigned)
        logger.info("partitions %s", ", ".join(map(str, numbers)) or "none")


async def run_worker(settings: Settings, *, instance: str | None = None, until_caught_up: bool = False) -> Counts:
    """Run a worker in this process until SIGTERM or SIGINT, or until it has caught up."""
    worker = Worker(settings, instance=instance, until_caught_up=until_caught_up)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    return await worker.run()


def _calm_garbage_collector() -> None:
    """A batch makes and drops some 100,000 containers, which are no garbage until it is done.

    Looked through every 700 of them, as by default, they cost 1.0 to 1.5 us an event.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)


def main() -> None:
    """The process's entry: exit 0 after a clean stop, else the error's own code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instance", help="the static member's name; without it the member is dynamic")
    parser.add_argument("--until-caught-up", action="store_true")
    options = parser.parse_args()
    log.configure()
    _calm_garbage_collector()
    try:
        asyncio.run(run_worker(Settings.load(), instance=options.instance, until_caught_up=options.until_caught_up))
    except TallyError as error:
        logger.error("%s", error)
        logging.shutdown()
        # Not sys.exit: a statement that hangs in a thread would keep the process from ending.
        os._exit(error.exit_code)


if __name__ == "__main__":
    main()
