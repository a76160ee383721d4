"""Progress of the consumers: the time up to which every accepted event has an outcome.

The log's ends are recorded periodically. Once all partitions are committed up to recorded ends, every event that was
acknowledged before that time has an outcome. So an older id without an outcome was never accepted.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from readers.flow_rates import FlowRates
from readers.group_workers import GroupWorkers
from readers.log_position import LogPosition
from runtime import kafka
from runtime.errors import TallyError, Unavailable, reason_of
from runtime.kafka_groups import group_members
from runtime.metrics import LAG, LAG_SECONDS
from runtime.settings import Settings
from runtime.stuck import StuckPartitionTracker
from runtime.tasks import running
from schemas.identity import id_time_ms

LOOK_EVERY_S = 0.5
MAX_SNAPSHOTS = 5_000
"""Maximum recorded log ends. Beyond it every second one is dropped, so a long lag is known less exactly."""
MAX_POSITIONS = 120
"""Positions that are kept: those of the last minute."""
WARN_EVERY_S = 30.0
MAX_AGE_S = 10.0
WORKERS_EVERY_S = 2.0
"""Pause between two observations of the group's members."""

log = logging.getLogger("tally.api")


class _LogEnds(NamedTuple):
    at_ms: int
    ends: Mapping[int, int]


class ConsumerProgress:
    """Progress of one consumer group on one topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Longest time from minting an id until its event is on the topic, clock skew included.
        self._slack_ms = max(settings.delivery_timeout_ms, settings.collector_ack_ms) + settings.clock_skew_ms
        self._snapshots: deque[_LogEnds] = deque()
        self._looked_at = -math.inf
        self._workers_looked_at = -math.inf
        self.partitions = StuckPartitionTracker(settings)
        """Tracker of stuck partitions."""
        self.settled_ms = 0
        """Time (ms since 1970) up to which every accepted event has an outcome; 0 while unknown."""
        self.committed: Mapping[int, int] = {}
        """Offset by partition below which every record has an outcome, as last observed."""
        self.waiting: Mapping[int, int] = {}
        """Records by partition without an outcome yet, as last observed."""
        self.positions: deque[LogPosition] = deque(maxlen=MAX_POSITIONS)
        """Positions of the last observations, the newest last."""
        self.ends: Mapping[int, int] = {}
        """End of the log by partition, as last observed."""
        self.observed_ms = 0
        """Time (ms since 1970) of the last observation; 0 before the first."""
        self.rates = FlowRates()
        self.workers = GroupWorkers()

    def may_be_in_flight(self, interaction_id: str) -> bool:
        """Return whether an event without an outcome may have been accepted under this id."""
        minted_ms = id_time_ms(interaction_id)
        if minted_ms > time.time() * 1000 + self._settings.clock_skew_ms:
            return False
        return minted_ms + self._slack_ms >= self.settled_ms

    async def check(self) -> None:
        """Raise Unavailable while the last observation is older than MAX_AGE_S."""
        if self.is_stale:
            raise Unavailable("consumer progress unavailable")

    @property
    def is_stale(self) -> bool:
        """Whether the last observation is older than MAX_AGE_S."""
        return time.monotonic() - self._looked_at > MAX_AGE_S

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the consumer group until the block ends."""
        LAG_SECONDS.set_function(self._lag_s)
        try:
            async with running(self._follow(), "following the consumer group"):
                yield
        finally:
            LAG_SECONDS.set_function(_unknown)  # the metric would keep this object alive

    @property
    def lag_ms(self) -> int | None:
        """Age in ms of the oldest record without an outcome, as last observed; None while unknown."""
        return max(0, self.observed_ms - self.settled_ms) if self.settled_ms else None

    def _lag_s(self) -> float:
        """Return the lag in seconds, computed at each scrape because it grows between observations. Thread-safe."""
        settled_ms = self.settled_ms
        return time.time() - settled_ms / 1000 if settled_ms else _unknown()

    async def _follow(self) -> None:
        warned_at = -WARN_EVERY_S
        while True:
            try:
                await self._observe_periodically()
            except Exception as error:  # any error: without this task no id would ever be `unknown`
                if time.monotonic() - warned_at >= WARN_EVERY_S:
                    warned_at = time.monotonic()
                    log.warning("consumer progress unavailable: %s", reason_of(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _observe_periodically(self) -> None:
        settings = self._settings
        async with kafka.admin(settings) as admin, kafka.offset_reader(settings) as offsets:
            numbers = await kafka.partition_numbers(admin, settings.topic)
            places = [TopicPartition(settings.topic, number) for number in numbers]
            while True:
                at_ms = int(time.time() * 1000)
                ends = await kafka.end_offsets(offsets, places)
                committed = await kafka.committed_offsets(admin, settings.group, settings.topic)
                by_number = {place.partition: end for place, end in ends.items()}
                await self.partitions.note(by_number, committed)
                self.note(at_ms, by_number, self.partitions.passed)
                if time.monotonic() - self._workers_looked_at >= WORKERS_EVERY_S:
                    await self._observe_workers(admin)
                await asyncio.sleep(LOOK_EVERY_S)

    async def _observe_workers(self, admin: AIOKafkaAdminClient) -> None:
        """Observe the members of the group. Without them the progress is still known, so an error is only noted."""
        try:
            members = await group_members(admin, self._settings.group, self._settings.topic)
            self.workers.note(int(time.time() * 1000), members)
        except TallyError:
            self.workers.note_failure()
        self._workers_looked_at = time.monotonic()

    def note(self, at_ms: int, ends: Mapping[int, int], committed: Mapping[int, int]) -> None:
        """Record the log's ends, read at `at_ms` or later, and the offsets committed since."""
        self._looked_at = time.monotonic()
        self._snapshots.append(_LogEnds(at_ms, ends))
        self.committed, self.ends, self.observed_ms = committed, ends, at_ms
        self.rates.note(self._looked_at, ends, committed)
        self.waiting = {number: max(0, end - committed.get(number, 0)) for number, end in ends.items()}
        for partition, records in self.waiting.items():
            LAG.labels(partition).set(records)
        while self._snapshots and _is_settled(self._snapshots[0], committed):
            self.settled_ms = self._snapshots.popleft().at_ms
        if len(self._snapshots) > MAX_SNAPSHOTS:
            self._snapshots = deque(moment for number, moment in enumerate(self._snapshots) if number % 2 == 0)
        self.positions.append(LogPosition.of(self._settings.topic, at_ms, self.settled_ms, committed))


def _unknown() -> float:
    return math.nan


def _is_settled(moment: _LogEnds, committed: Mapping[int, int]) -> bool:
    return all(end == 0 or committed.get(partition, 0) >= end for partition, end in moment.ends.items())
