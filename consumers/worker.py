"""Worker process (`python -m consumers.worker`): assembly of its parts. Settings come from the environment."""

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from importlib import metadata

from aiokafka import TopicPartition

from consumers.assignment import Assignment
from consumers.batch import Counts
from consumers.claims.client import Claims
from consumers.claims.leases import Leases
from consumers.claims.rebuild import Rebuild
from consumers.claims.stored_owners import StoredOwners
from consumers.dead_letters import DeadLetters
from consumers.dedup import Deduplication
from consumers.erasure import Erasure
from consumers.instance_lock import InstanceLock
from consumers.intake import Intake
from consumers.loop import RebalanceListener, StopRequest, WorkerLoop, WorkerParts
from consumers.memory import limit_malloc_arenas, periodic_gc
from consumers.moves import Mover, ReplayMover
from consumers.pipeline import Pipeline, PipelineSteps
from consumers.precompile import precompile
from consumers.record_ranges import read_again
from consumers.reject_fuse import RejectFuses
from consumers.resume import Resume
from consumers.retention import Housekeeping
from consumers.session_signals import SessionSender
from consumers.sink import Sink
from consumers.telemetry import Telemetry
from consumers.topic_watch import TopicWatch
from consumers.validation import Validation
from runtime import kafka, log, metrics
from runtime.clickhouse import connect
from runtime.deletions import Deletions
from runtime.errors import TallyError
from runtime.expansions import Expansions
from runtime.learning_configs import LearningConfigs
from runtime.metrics_server import serve_metrics
from runtime.migrate import check_partition_count, check_schema
from runtime.process.priority import lower_priority
from runtime.redis import connect_redis
from runtime.settings import Settings
from runtime.stuck import describe
from runtime.tasks import running
from runtime.traces import Traces

logger = logging.getLogger("tally.worker")


class Worker:
    """One member of the consumer group: decides about its partitions' records until told to stop."""

    def __init__(
        self,
        settings: Settings,
        *,
        instance: str | None,
        until_caught_up: bool,
        ends: Mapping[int, int] | None = None,
        live: Settings | None = None,
    ) -> None:
        """Make a worker that stops at `ends` (an offset per partition) and replays the log of `live`'s workers."""
        self._settings = settings
        self._instance = instance
        self._until_caught_up = until_caught_up or ends is not None
        self._ends = ends or {}
        self._live = live
        self.counts = Counts()
        """Outcomes since the start."""
        self._traces = Traces(settings, "tally-worker")
        self._stop = StopRequest(settings.stop_timeout_ms)
        self._parts: WorkerParts | None = None

    def stop(self) -> None:
        """Flush the batches that were read, commit, and leave the group."""
        self._stop.begin()

    def why_not_ready(self) -> str:
        """Return why it is not ready, or that a partition is stuck; '' when it is ready."""
        if self._parts is None or not self._parts.assignment.was_received:
            return "the group has assigned no partitions yet"
        return self._parts.assignment.describe_held() or describe(self._parts.topic_watch.partitions.stuck)

    async def run(self) -> Counts:
        """Work until stopped, or with `until_caught_up` until nothing is left to read."""
        settings = self._settings
        await asyncio.to_thread(precompile)
        async with AsyncExitStack() as stack:
            stack.enter_context(self._traces.exported())
            parts = self._parts = await self._assemble(stack)
            self.counts = parts.pipeline.counts
            await stack.enter_async_context(running(parts.topic_watch.run(), "watching the topic"))
            loop = WorkerLoop(settings, parts, self._stop, until_caught_up=self._until_caught_up, ends=self._ends)
            parts.consumer.subscribe([settings.topic], listener=RebalanceListener(loop, settings.stop_timeout_ms))
            await loop.run()
        logger.info("stages: %s", parts.pipeline.stages.as_text())
        logger.info("stopped: %s", self.counts.as_text())
        return self.counts

    async def _assemble(self, stack: AsyncExitStack) -> WorkerParts:
        """Connect to the stores, check that they fit, and make the parts. Raises TallyError."""
        settings, topic = self._settings, self._settings.topic
        database = await stack.enter_async_context(connect(settings))
        await check_schema(settings, database)
        admin = await stack.enter_async_context(kafka.admin(settings))
        await kafka.check_topics(admin, settings)
        redis = await stack.enter_async_context(connect_redis(settings))
        instance_lock = None
        if self._instance is not None:
            instance_lock = InstanceLock(redis, settings, self._instance)
            await stack.enter_async_context(instance_lock.held())
        letters = await stack.enter_async_context(kafka.producer(settings, dead_letters=True))
        partitions = len(await kafka.partition_numbers(admin, topic))
        await check_partition_count(settings, database, partitions)
        expansions = await Expansions.read(topic, database)
        consumer = await stack.enter_async_context(kafka.consumer(settings, instance=self._instance))
        offset_reader = await stack.enter_async_context(kafka.offset_reader(settings))
        mover: Mover | ReplayMover = Mover(settings, stack)
        configs = LearningConfigs(settings, database)
        if self._live is None:
            await stack.enter_async_context(configs.refreshed(required=True))
        else:  # a replay has no configurations: nobody reads signals of its database
            mover = ReplayMover(self._live, await stack.enter_async_context(connect(self._live)))
        assignment = Assignment(consumer, offset_reader, settings, partitions, self._ends)
        intake = Intake(consumer, settings)
        resume, claims = Resume(topic, database, consumer, offset_reader), Claims(redis, settings)
        rebuild = Rebuild(settings, claims, database, expansions)
        leases = Leases(claims, resume, rebuild, assignment.confirm, may_hold=settings.reject_policy == "hold")

        def hold(next_offsets: Mapping[int, int]) -> None:
            assignment.hold(next_offsets)
            intake.forget(TopicPartition(topic, partition) for partition in next_offsets)

        sessions = SessionSender(settings, redis, configs)
        steps = PipelineSteps(
            validation=Validation(topic, settings.namespace, partitions, expansions),
            fuses=RejectFuses(settings),
            resume=resume,
            mover=mover,
            deduplication=Deduplication(leases, StoredOwners(settings, database, expansions)),
            erasure=Erasure(Deletions(database)),
            sink=Sink(topic, database),
            sessions=sessions,
            dead_letters=DeadLetters(settings, letters),
            telemetry=Telemetry(self._traces),
            read_again=partial(read_again, settings),
            commit=assignment.commit,
            hold=hold,
        )
        pipeline, watch = Pipeline(settings, steps), TopicWatch(settings, admin, consumer, offset_reader)
        housekeeping = Housekeeping(settings, database)
        return WorkerParts(
            consumer, intake, assignment, resume, leases, pipeline, sessions, watch, housekeeping, instance_lock
        )


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
    """Run the process: exit code 0 after a clean stop, else the error's own code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instance", help="name of a static group member (group.instance.id); default: dynamic member")
    parser.add_argument("--until-caught-up", action="store_true", help="stop once nothing is left to read")
    parser.add_argument("--metrics-port", type=int, help="port of /metrics, instead of TALLY_METRICS_PORT")
    options = parser.parse_args()
    log.configure()
    limit_malloc_arenas()
    try:
        settings = Settings.load(**({} if options.metrics_port is None else {"metrics_port": options.metrics_port}))
        log.configure(settings.log_format)
        lower_priority(settings.worker_niceness)
        asyncio.run(run_worker(settings, instance=options.instance, until_caught_up=options.until_caught_up))
    except TallyError as error:
        logger.error("%s", error)
        logging.shutdown()
        # Not sys.exit: a statement that hangs in a thread would keep the process from ending.
        os._exit(error.exit_code)


if __name__ == "__main__":
    main()
