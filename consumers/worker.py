"""One worker process: `python -m consumers.worker`. Its settings come through the environment."""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib import metadata

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from consumers.assignment import Assignment
from consumers.batch import Batch, Counts
from consumers.claims.client import Claims
from consumers.claims.leases import Leases
from consumers.claims.rebuild import Rebuild
from consumers.claims.stored_owners import StoredOwners
from consumers.dedup import Deduplication
from consumers.erasure import Erasure
from consumers.garbage import periodic_gc
from consumers.instance_lock import InstanceLock
from consumers.intake import Intake
from consumers.letters import Letters
from consumers.memory import limit_malloc_arenas
from consumers.narrowing import Narrowing
from consumers.offsets import Offsets
from consumers.pipeline import Outlets, Pipeline, Source
from consumers.precompile import precompile
from consumers.recorded_moves import opened_mover
from consumers.reject_fuse import RejectFuses
from consumers.rereading import read_again
from consumers.resume import Resume
from consumers.retention import Housekeeping
from consumers.sink import Sink
from consumers.stopping import Stopping
from consumers.telemetry import Telemetry
from consumers.topic_watch import TopicWatch
from consumers.validation import Validation
from runtime import kafka, log, metrics
from runtime.clickhouse import ClickHouse, connect
from runtime.deletions import Deletions
from runtime.errors import TallyError, Unavailable
from runtime.expansions import Expansions
from runtime.metrics_server import serve_metrics
from runtime.migrate import check_partition_count, check_schema
from runtime.redis import Redis, connect_redis
from runtime.settings import Settings
from runtime.stuck import describe
from runtime.tasks import cancel_and_wait
from runtime.traces import Traces

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
        live: Settings | None = None,
    ) -> None:
        """With `ends` (an offset per partition) it stops there; with `live` it moves only what those workers moved."""
        self._settings = settings
        self._instance = instance
        self._until_caught_up = until_caught_up or ends is not None
        self._ends = dict(ends or {})
        self._live = live
        self.counts = Counts()
        """What it has done so far."""
        self._traces = Traces(settings, "tally-worker")
        self._is_assigned = False
        """Whether the group has told it its partitions, be it none."""
        self._stop = Stopping(settings.stop_timeout_ms)
        self._busy = asyncio.Lock()
        """Held while a batch is being decided about: a rebalance waits for it."""
        self._finishing: asyncio.Task[None] | None = None
        """The batch that is being stored."""
        self._housekeeping: Housekeeping
        self._consumer: AIOKafkaConsumer
        self._intake: Intake
        self._share: Assignment
        self._resume: Resume
        self._watch: TopicWatch
        self._lock: InstanceLock | None = None
        self._leases: Leases
        self._pipeline: Pipeline

    def stop(self) -> None:
        """Finish what was read, commit, leave."""
        self._stop.begin()

    def why_not_ready(self) -> str:
        """Reasons why it is not ready, or why a partition is stuck; empty when there are none."""
        if not self._is_assigned:
            return "the group has not told it its partitions"
        if held := self._share.held_in_words():
            return held
        return describe(self._watch.partitions.stuck)

    async def run(self) -> Counts:
        """Work until stopped, or with `until_caught_up` until nothing is left to read."""
        settings = self._settings
        await asyncio.to_thread(precompile)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._traces.exported())
            database = await stack.enter_async_context(connect(settings))
            await check_schema(settings, database)
            admin = await stack.enter_async_context(kafka.admin(settings))
            await kafka.check_topics(admin, settings)
            redis = await stack.enter_async_context(connect_redis(settings))
            if self._instance is not None:
                self._lock = InstanceLock(redis, settings, self._instance)
                await stack.enter_async_context(self._lock.held())
            letters = await stack.enter_async_context(kafka.producer(settings, dead_letters=True))
            partitions = len(await letters.partitions_for(settings.topic))
            await check_partition_count(settings, database, partitions)
            expansions = await Expansions.read(settings.topic, database)
            self._consumer = await stack.enter_async_context(kafka.consumer(settings, instance=self._instance))
            offset_reader = await stack.enter_async_context(kafka.offset_reader(settings))
            self._intake = Intake(self._consumer, settings)
            self._share = Assignment(self._consumer, offset_reader, settings.topic, partitions, self._ends)
            self._resume = Resume(settings.topic, database, self._consumer, offset_reader)
            moves = await stack.enter_async_context(opened_mover(settings, self._live))
            writer = Letters(settings.topic, settings.dead_letter_topic_name, letters, settings.max_record_bytes)
            outlets = Outlets(Sink(settings.topic, database), Erasure(Deletions(database)), writer, moves)
            pipeline = self._pipeline = self._assemble(partitions, expansions, database, redis, outlets)
            self.counts = pipeline.counts
            self._housekeeping = Housekeeping(settings, database)
            self._watch = TopicWatch(settings, admin, self._consumer, offset_reader)
            await stack.enter_async_context(self._watch.running())
            self._consumer.subscribe([settings.topic], listener=self)
            try:
                await self._loop(pipeline)
            except TallyError:
                await self._let_finish(settings.stop_timeout_ms / 1000)
                raise
            finally:
                await self._let_finish(0)
                await self._housekeeping.close()
        logger.info("stages: %s", pipeline.stages.as_text())
        logger.info("stopped: %s", self.counts.as_text())
        return self.counts

    def _assemble(
        self, partitions: int, expansions: Expansions, database: ClickHouse, redis: Redis, outlets: Outlets
    ) -> Pipeline:
        settings = self._settings
        claims = Claims(redis, settings)
        offsets = Offsets(self._consumer, settings)
        rebuild = Rebuild(settings, claims, database, expansions)
        holds = settings.reject_policy == "hold"
        self._leases = Leases(claims, self._resume, rebuild, offsets.confirm, may_hold=holds)
        return Pipeline(
            settings,
            validation=Validation(settings.topic, settings.namespace, partitions, expansions),
            fuses=RejectFuses(settings),
            resume=self._resume,
            deduplication=Deduplication(self._leases, StoredOwners(settings, database, expansions)),
            source=Source(partial(read_again, settings), offsets.commit, self._hold),
            outlets=outlets,
            telemetry=Telemetry(self._traces),
        )

    def _hold(self, offsets: dict[int, int]) -> None:
        self._share.hold(offsets)
        metrics.PARTITIONS_HELD.set(len(self._share.held))
        self._intake.forget(TopicPartition(self._settings.topic, partition) for partition in offsets)

    async def _loop(self, pipeline: Pipeline) -> None:
        while not self._stop.event.is_set():
            if self._is_assigned:
                has_first = TopicPartition(self._settings.topic, 0) in self._consumer.assignment()
                self._housekeeping.begin_if_due(events_too=has_first)
            with pipeline.stages.of("read"):
                await self._intake.fill(self._stop.event)
            self._check()
            async with self._busy:
                batch = self._intake.take().before(self._ends)
                await self._stop.unless("the last batch was not stored", self._process(pipeline, batch))
            if not batch.slices and self._until_caught_up:
                asking = self._share.has_caught_up()
                if await self._stop.unless("whether everything is read could not be told", asking):
                    break
        await self._stop.unless("the last batch was not stored", self._finish_all(pipeline))
        if self._until_caught_up:
            with suppress(Unavailable):
                await self._stop.unless("retention run failed", self._housekeeping.ended())
            self._share.check_held()

    def _check(self) -> None:
        """Raise when this worker must not continue: before what was read is decided about."""
        self._share.check_partitions()
        self._watch.check()
        if self._lock is not None:
            self._lock.check()
        starts = self._watch.take_starts()
        if starts and not self._ends:
            self._resume.check_expired(starts, self._intake.partitions)

    async def _process(self, pipeline: Pipeline, records: Batch) -> None:
        """Decide about a batch while those before it are being stored, and have it stored when that is due."""
        if len(records):
            await Narrowing(self._settings.topic, pipeline, partial(self._finish_all, pipeline)).process(records)
        else:
            await self._resume.prepare(partition.partition for partition in self._consumer.assignment())
        if not len(records) or pipeline.gathered.is_full or not self._intake.more_waits():
            await self._store_gathered(pipeline)
        if not len(records):
            await self._finished()

    async def _store_gathered(self, pipeline: Pipeline) -> None:
        """Begin with it, once what is before it is stored."""
        if len(pipeline.gathered):
            with pipeline.stages.of("wait for the group before"):
                await self._finished()
            self._finishing = await pipeline.finish()

    async def _let_finish(self, timeout_s: float) -> None:
        """An error elsewhere is none of the business of the batch in flight: it may end, but not for ever."""
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            await asyncio.wait((finishing,), timeout=timeout_s)
            await cancel_and_wait(finishing)
            await asyncio.gather(finishing, return_exceptions=True)

    async def _finish_all(self, pipeline: Pipeline) -> None:
        await self._store_gathered(pipeline)
        await self._finished()

    async def _finished(self) -> None:
        """Until nothing is in flight. Raises what went wrong with it."""
        if self._finishing is not None:
            try:
                await self._finishing
            finally:
                self._finishing = None

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
            logger.warning("in-flight batch did not finish before the rebalance deadline (TALLY_STOP_TIMEOUT_MS)")
        self._share.is_settled = False
        gone = list(revoked)
        numbers = [partition.partition for partition in gone]
        self._pipeline.forget_gathered()
        self._intake.forget(gone)
        self._resume.forget(numbers)
        self._leases.forget(numbers)
        self._share.held.clear()
        metrics.PARTITIONS_HELD.set(0)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note the new share; what is stored ahead of it is asked for with its first batch."""
        self._share.is_settled = self._is_assigned = True
        # A batch that outlasted the last rebalance may have left something behind.
        self._resume.forget(partition.partition for partition in assigned)
        self._leases.forget(partition.partition for partition in assigned)
        numbers = sorted(partition.partition for partition in assigned)
        metrics.PARTITIONS.set(len(numbers))
        logger.info("partitions %s", ", ".join(map(str, numbers)) or "none")


async def run_worker(settings: Settings, *, instance: str | None = None, until_caught_up: bool = False) -> Counts:
    """Run a worker in this process until SIGTERM or SIGINT, or until it has caught up."""
    worker = Worker(settings, instance=instance, until_caught_up=until_caught_up)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    metrics.BUILD.labels(metadata.version("tally-server")).set(1)
    with serve_metrics(settings, worker.why_not_ready):
        async with periodic_gc():
            return await worker.run()


def main() -> None:
    """The process's entry: exit 0 after a clean stop, else the error's own code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instance", help="the static member's name; without it the member is dynamic")
    parser.add_argument("--until-caught-up", action="store_true")
    parser.add_argument("--metrics-port", type=int, help="instead of TALLY_METRICS_PORT")
    options = parser.parse_args()
    log.configure()
    limit_malloc_arenas()
    try:
        settings = Settings.load(**({} if options.metrics_port is None else {"metrics_port": options.metrics_port}))
        log.configure(settings.log_format)
        asyncio.run(run_worker(settings, instance=options.instance, until_caught_up=options.until_caught_up))
    except TallyError as error:
        logger.error("%s", error)
        logging.shutdown()
        # Not sys.exit: a statement that hangs in a thread would keep the process from ending.
        os._exit(error.exit_code)


if __name__ == "__main__":
    main()
