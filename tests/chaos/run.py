"""Run of a campaign: traffic, workers, one fault at one failpoint, and the verification."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import Unavailable
from runtime.migrate import migrate
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from tests.chaos.child import TELL, Orders
from tests.chaos.claims import Claims
from tests.chaos.crew import Crew, let_go_when_late
from tests.chaos.faults import FAULTS
from tests.chaos.hostile_traffic import HostileTraffic, send_hostile
from tests.chaos.learned import LearnedState, tokens_of
from tests.chaos.plan import RESTART, Plan, pace_of
from tests.chaos.proxy import Proxy, proxy_to
from tests.chaos.result import Result
from tests.chaos.sessions import Sessions
from tests.chaos.traffic import DOCUMENTS, EXECUTIONS, NARROWED, PARTITIONS, Traffic
from tests.chaos.verify import Place, compared, problems_of, recorded_outcomes
from tests.lab import at_port

RECORDS = 240
BURST = 12
HOSTILE_SHARE = 0.2
"""Hostile batches per burst."""
MORE_RECORDS = 40
MET_S = 30.0
CATCH_UP_S = 120.0
POLL_S = 0.04
UNDISTURBED_EVERY = 10
PATIENT = {"query_timeout_ms": 30_000, "connect_timeout_ms": 30_000, "session_timeout_ms": 30_000}
"""Timeouts of the campaign and of undisturbed workers, generous for slow machines."""


class Run:
    """The world of one run."""

    def __init__(self, plan: Plan, stack: Stack, folder: Path, control: str | None = None) -> None:
        self.plan = plan
        self.random = Random(plan.seed)
        self.log_path = folder / f"run-{plan.number}.log"
        self.proxies: dict[str, Proxy] = {}
        self.crew: Crew
        self._stack = stack
        self._control = control
        self._must_reject: dict[Place, str] = {}
        self._records = self._hostile_batches = 0
        self._problems: list[str] = []
        self._narrowed = plan.failpoint == "refused" or self.random.random() < 0.2
        name = f"chaos{uuid.uuid4().hex[:12]}"
        own = {"topic": name, "group": name, "database": name, "key_prefix": name, "partitions": PARTITIONS}
        self.settings = stack.settings().model_copy(update={**own, **pace_of(self.random)})
        # The narrowed table takes no tokens.
        tokens = {} if self._narrowed else tokens_of(self.settings, EXECUTIONS, DOCUMENTS)
        self._traffic = Traffic(self.random, tokens)
        self._hostile_traffic = HostileTraffic(self.random, self._traffic)
        self._static = self.random.random() < 0.7
        self.through = self.settings
        self.claims = Claims(self.settings)
        self._admin: AIOKafkaAdminClient
        self._producer: AIOKafkaProducer
        self._log: AIOKafkaConsumer
        self._database: ClickHouse
        self._sessions: Sessions

    async def execute(self) -> Result:
        """Execute the run and check its outcomes."""
        begun = time.monotonic()
        async with AsyncExitStack() as opened:
            await self._open(opened)
            try:
                met = await self._run_with_fault()
                if not self._problems:
                    self._problems += await self._problems_found()
                if not self._problems and not self.plan.number % UNDISTURBED_EVERY:
                    await self._compare_with_undisturbed()
            finally:
                self.crew.close()
                await self._database.command(f"DROP DATABASE {self.settings.database}")
                await self._admin.delete_topics([self.settings.topic, self.settings.dead_letter_topic_name])
                await self.claims.forget()
        return self._result(met=met, kills=self.crew.kills, seconds=time.monotonic() - begun)

    def failed(self, error: Exception) -> Result:
        """The result of a run that the campaign itself could not bring to its end."""
        self._problems.append(f"the campaign failed: {error!r}")
        return self._result(met=False, kills=0, seconds=0)

    def _result(self, *, met: bool, kills: int, seconds: float) -> Result:
        return Result(
            number=self.plan.number,
            seed=self.plan.seed,
            failpoint=self.plan.failpoint,
            fault=self.plan.fault,
            store=self.plan.store,
            met=met,
            kills=kills,
            records=self._records,
            hostile_batches=self._hostile_batches,
            seconds=round(seconds, 2),
            problems=self._problems,
        )

    async def _open(self, opened: AsyncExitStack) -> None:
        settings = self.settings
        await kafka.create_topics(settings)
        await migrate(settings.model_copy(update=PATIENT))
        ports = {
            "kafka": int(settings.kafka.rpartition(":")[2]),
            "redis": urlsplit(settings.redis.get_secret_value()).port or 0,
            "clickhouse": urlsplit(settings.clickhouse.get_secret_value()).port or 0,
        }
        for name, port in ports.items():
            self.proxies[name] = await opened.enter_async_context(proxy_to(port))
        self.through = settings.model_copy(
            update={
                "kafka": f"127.0.0.1:{self.proxies['kafka'].port}",
                "redis": at_port(settings.redis, self.proxies["redis"].port),
                "clickhouse": at_port(settings.clickhouse, self.proxies["clickhouse"].port),
            }
        )
        brokers = {ports["kafka"]: self.proxies["kafka"].port}
        self.crew = Crew(Orders(self.through, str(self.log_path), brokers, control=self._control))
        self._admin = await opened.enter_async_context(kafka.admin(settings))
        self._producer = await opened.enter_async_context(kafka.producer(settings, dead_letters=True))
        self._log = await opened.enter_async_context(kafka.offset_reader(settings))
        self._database = await opened.enter_async_context(connect(settings.model_copy(update=PATIENT)))
        if self._narrowed:
            await self._database.command(NARROWED)
        self._sessions = Sessions(settings.model_copy(update=PATIENT), self._database)
        await self._sessions.configure()
        self._learned = LearnedState(settings.model_copy(update=PATIENT), self.through, self.random, self._control)

    async def _run_with_fault(self) -> bool:
        """Inject the fault under traffic and wait for the workers; returns whether the failpoint was reached."""
        plan, crew = self.plan, self.crew
        await self.feed(RECORDS)
        if plan.failpoint == "restored" or self.random.random() < 0.3:
            await self._leave_a_crashed_worker()
        keeping = asyncio.create_task(self.claims.keep_snapshots())
        reading = asyncio.create_task(self._sessions.keep_reading())
        counting = asyncio.create_task(self._learned.keep_counting())
        instance = f"{self.settings.group}-a" if self._static else None
        action = plan.fault if plan.fault in ("crash", "kill", "stop") else TELL
        orders: dict[str, object] = {
            "failpoint": plan.failpoint,
            "passes": plan.passes,
            "action": action,
            "instance": instance,
        }
        victim = crew.start(**orders)
        # Not where claims have to be restored: the other worker might get the partition that needs it.
        if plan.failpoint != "restored" and self.random.random() < 0.5:
            crew.start()
        met, deadline = False, time.monotonic() + MET_S
        while not met and time.monotonic() < deadline:
            met = await victim.met(0.5)
            if not met and await victim.ended(0):  # as when the machine is slow, and the group gave it up
                crew.dismiss(victim)
                victim = crew.start(**orders)
            if not met:
                await self.feed(MORE_RECORDS)
        self.claims.stop_keeping()
        await cancel_and_wait(keeping)
        if met:
            feeding = asyncio.create_task(self.feed(RECORDS // 3))
            await FAULTS[plan.fault](self, victim)
            await feeding
        late = asyncio.create_task(let_go_when_late(victim))
        for proxy in self.proxies.values():
            proxy.pass_everything()
        if not await self.until(self.is_caught_up, CATCH_UP_S):
            self._problems.append(f"not caught up within {CATCH_UP_S} s")
        self._sessions.stop_reading()
        self._learned.stop_counting()
        self._problems += await crew.stop()
        await cancel_and_wait(late, reading, counting)
        if not await self.is_caught_up():  # a worker that the group had expelled may have moved events late
            await self._drain(self.settings)
        return met

    async def _drain(self, settings: Settings) -> None:
        """Let an undisturbed worker process the rest of the topic."""
        member = self.crew.start(settings=settings, kafka_ports={}, control=None, until_caught_up=True)
        if not await member.ended(CATCH_UP_S) or member.process.exitcode != 0:
            self._problems.append(f"an undisturbed worker did not end well: {member.process.exitcode}")

    async def _leave_a_crashed_worker(self) -> None:
        """Kill a first worker at a failpoint, and perhaps delete its claims."""
        failpoint, passes = self.random.choice(("claimed", "stored", "recorded")), self.random.choice((1, 2))
        needs_rebuild, settings = self.plan.failpoint == "restored", self.through
        if needs_rebuild:  # which needs rows of late in a partition, and records right after them
            failpoint, passes, settings = "committed", 1, settings.model_copy(update={"batch_rows": 20})
        dying = self.crew.start(settings=settings, failpoint=failpoint, passes=passes, action="kill")
        await dying.met(5)
        self.crew.dismiss(dying)
        if needs_rebuild or self.random.random() < 0.5:
            await self.claims.forget()

    async def feed(self, count: int) -> None:
        """Put records on the topic, burst by burst, so that append times differ."""
        for start in range(0, count, BURST):
            raws = [self._traffic.record() for _ in range(min(BURST, count - start))]
            topic = self.settings.topic
            sent = [await self._producer.send(topic, **raw._asdict()) for raw in raws]
            await asyncio.gather(*sent)
            self._records += len(raws)
            if self.random.random() < HOSTILE_SHARE:
                batch = self._hostile_traffic.batch()
                self._must_reject |= await send_hostile(self.settings.kafka, topic, batch)
                self._records += len(batch.reasons)
                self._hostile_batches += 1

    async def _problems_found(self) -> list[str]:
        problems = await problems_of(
            self.settings, self._database, narrowed=self._narrowed, must_reject=self._must_reject
        )
        committed = await kafka.committed_offsets(self._admin, self.settings.group, self.settings.topic)
        was_lost = self.claims.was_lost or (self.plan.fault, self.plan.store) == (RESTART, "redis")
        problems += await self._sessions.problems(committed, was_lost=was_lost)
        return problems + await self._learned.problems(self._database, has_tokens=not self._narrowed)

    async def is_caught_up(self) -> bool:
        """Return whether everything on the topic is committed; dead workers are replaced meanwhile.

        Also the copies that workers have put there: the ends are asked for last.
        """
        self._problems += self.crew.replace_dead()
        places = [TopicPartition(self.settings.topic, partition) for partition in range(self.settings.partitions)]
        try:
            done = await kafka.committed_offsets(self._admin, self.settings.group, self.settings.topic)
            ends = await kafka.end_offsets(self._log, places)
        except Unavailable:
            return False
        return all(done.get(place.partition, 0) >= ends[place] for place in places)

    async def until(self, condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
        """Return whether a condition became true within the time."""
        deadline = time.monotonic() + timeout_s
        while not await condition():
            if time.monotonic() >= deadline or self._problems:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def proxy(self) -> Proxy:
        """The proxy before the store of this run."""
        return self.proxies[self.plan.store]

    async def restart_part(self) -> None:
        """Kill one part of the stack and start it again."""
        os.kill(self._stack.pid(self.plan.store), signal.SIGKILL)
        await asyncio.to_thread(self._stack.restart, self.plan.store)

    async def _compare_with_undisturbed(self) -> None:
        """Drain the same log once more, undisturbed, into an empty store: the outcomes must be equal."""
        disturbed, _ = await recorded_outcomes(self._database, self.settings.topic)
        ends: dict[int, int] = {}
        for partition, offset in disturbed:
            ends[partition] = max(ends.get(partition, 0), offset + 1)
        again = f"{self.settings.database}u"
        other = {"database": again, "group": again, "key_prefix": again}
        settings: Settings = self.settings.model_copy(update={**other, **PATIENT})
        await migrate(settings)
        async with connect(settings) as database:
            if self._narrowed:
                await database.command(NARROWED)
            await self._drain(settings)
            undisturbed, _ = await recorded_outcomes(database, settings.topic)
            # The worker moves events again, into a log that the others' copies have lengthened.
            known = {place: outcome for place, outcome in undisturbed.items() if place[1] < ends.get(place[0], 0)}
            self._problems += compared(known, disturbed)
            await database.command(f"DROP DATABASE {again}")
