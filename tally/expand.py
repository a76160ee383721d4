"""Expansion of a topic: more partitions, with the verdicts of a topic that always had them.

1 hold      set the topic's record size limit to one byte: the broker refuses the records of every producer, so no
            record can still arrive; producers report a temporary error
2 drain     wait until the workers have committed every record
3 record    store the ends of the old partitions; each new partition inherits from one of them (`runtime.expansions`)
4 expand
5 settle    wait until every producer has read the topic's metadata, and has given up its earlier records
6 release   workers restart by themselves, and rebuild the claims of the new partitions from ClickHouse

A failure before step 3 releases the topic unchanged. After step 3 the same command continues.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import SettingsError, TallyError, Unavailable
from runtime.expansions import Expansions
from runtime.migrate import check_schema
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from runtime.topic_settings import MAX_MESSAGE_BYTES, add_partitions, change_topic_settings, topic_overrides
from schemas.event_time import from_epoch_ms
from schemas.tables import EXPANSIONS, OUTCOMES, TOPICS

HELD_BYTES = 1
POLL_S = 0.2

_NOTE = (
    f"INSERT INTO {EXPANSIONS} (topic, partitions_before, partitions_after, ends, max_message_bytes) "
    "SELECT {topic:String}, {before:UInt32}, {after:UInt32}, {ends:Array(UInt64)}, {max_message_bytes:UInt64}"
)
_BEGUN = (
    f"SELECT partitions_before, ends, max_message_bytes FROM {EXPANSIONS} FINAL "
    "WHERE topic = {topic:String} AND partitions_after = {after:UInt32}"
)
_NOT_MOVED = (
    f"SELECT count() FROM {OUTCOMES} FINAL WHERE _topic = {{topic:String}} "
    "AND reason = 'not_moved' AND replayed_as = ''"
)
_COUNT = f"INSERT INTO {TOPICS} (topic, partitions) SELECT {{topic:String}}, {{after:UInt32}}"

ReportStep = Callable[[str], None]


class _Start(NamedTuple):
    """State of the topic before the expansion; `ends` is empty until it is drained."""

    before: int
    ends: Sequence[int]
    max_message_bytes: int


class Expand:
    """Expansion of one topic to `partitions`."""

    def __init__(self, settings: Settings, partitions: int, *, drain_timeout_s: float, say: ReportStep) -> None:
        self._settings = settings
        self._partitions = partitions
        self._drain_timeout_s = drain_timeout_s
        self._say = say
        self._settle_s = (kafka.METADATA_MAX_AGE_MS + settings.delivery_timeout_ms) / 1000
        self._database: ClickHouse
        self._admin: AIOKafkaAdminClient
        self._log: AIOKafkaConsumer

    async def run(self) -> int:
        """Expand, and return the previous number of partitions. Raises TallyError; the call can then be repeated."""
        async with AsyncExitStack() as open_:
            self._database = await open_.enter_async_context(connect(self._settings))
            self._admin = await open_.enter_async_context(kafka.admin(self._settings))
            self._log = await open_.enter_async_context(kafka.offset_reader(self._settings))
            await check_schema(self._settings, self._database)
            begun = await self._begin()
            if begun.ends and await self._is_done():
                self._say("nothing to do")
                return begun.before
            if not begun.ends:
                begun = begun._replace(ends=await self._hold_and_drain(begun))
                await self._note(begun)
            await self._database.command(_COUNT, self._where)
            if len(await self._numbers()) < self._partitions:
                await add_partitions(self._admin, self._settings.topic, self._partitions)
                self._say(f"{self._partitions} partitions; waiting {self._settle_s:.0f} s for producers to notice")
            await asyncio.sleep(self._settle_s)
            await self._release(begun)
            await self._say_not_moved()
            return begun.before

    async def _say_not_moved(self) -> None:
        """Report misplaced events that workers could not move while the topic refused records."""
        ((events,),) = await self._database.rows(_NOT_MOVED, self._where)
        if events:
            self._say(
                f"{events:,} misplaced events were not moved: `tally dlq replay --reason not_moved` puts them back"
            )

    @property
    def _where(self) -> dict[str, object]:
        return {"topic": self._settings.topic, "after": self._partitions}

    async def _numbers(self) -> list[int]:
        return await kafka.partition_numbers(self._admin, self._settings.topic)

    async def _is_done(self) -> bool:
        limit = (await topic_overrides(self._admin, self._settings.topic)).get(MAX_MESSAGE_BYTES)
        return len(await self._numbers()) == self._partitions and limit != str(HELD_BYTES)

    async def _begin(self) -> _Start:
        """Return the start of this expansion, or of an interrupted one."""
        before = len(await self._numbers())
        limit = (await topic_overrides(self._admin, self._settings.topic)).get(MAX_MESSAGE_BYTES)
        earlier = [_Start(*row) for row in await self._database.rows(_BEGUN, self._where)]
        if earlier and (earlier[0].ends or limit == str(HELD_BYTES)):
            return earlier[0]
        await self._refuse(before)
        begun = _Start(before, [], int(limit or self._settings.max_record_bytes))
        await self._note(begun)
        return begun

    async def _refuse(self, before: int) -> None:
        if self._partitions <= before or self._partitions % before:
            raise SettingsError(
                f"--partitions: the topic has {before}, so {2 * before} or another multiple of {before}: each new "
                "partition then inherits from exactly one old partition"
            )
        expansions = (await Expansions.read(self._settings.topic, self._database)).all
        if expansions:
            free_at_ms = expansions[-1].at_ms + self._settings.reach_back_ms
            if free_at_ms > time.time() * 1000:
                raise TallyError(
                    "the topic was expanded recently, and events from before are still within the deduplication "
                    "window: retry after "
                    f"{from_epoch_ms(free_at_ms):%H:%M:%S} UTC"
                )

    async def _note(self, begun: _Start) -> None:
        row = {"before": begun.before, "ends": list(begun.ends), "max_message_bytes": begun.max_message_bytes}
        await self._database.command(_NOTE, self._where | row)

    async def _hold_and_drain(self, begun: _Start) -> Sequence[int]:
        """Hold producers, wait until everything is committed, and return the end of each partition."""
        try:
            await change_topic_settings(self._admin, self._settings.topic, max_message_bytes=str(HELD_BYTES))
            self._say("producers are held")
            return await self._drained(begun.before)
        except BaseException:
            await asyncio.shield(self._release(begun))
            raise

    async def _drained(self, before: int) -> Sequence[int]:
        settings, deadline = self._settings, time.monotonic() + self._drain_timeout_s
        places = [TopicPartition(settings.topic, number) for number in range(before)]
        ask = partial(kafka.committed_offsets, self._admin, settings.group, settings.topic)
        last: Sequence[int] = ()
        while True:
            found = await kafka.end_offsets(self._log, places)
            ends = [found[place] for place in places]
            committed = await retrying("reading committed offsets", ask, tries=COMMAND_ATTEMPTS)
            lag = sum(end - committed.get(number, 0) for number, end in enumerate(ends))
            # Two equal readings: a broker may have been appending a record when the limit changed.
            if not lag and ends == last:
                self._say("everything is committed")
                return ends
            last = ends
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{lag:,} records were not committed within {self._drain_timeout_s:.0f} s (--drain-timeout); "
                    "producers are released, and nothing has changed: are workers running?"
                )
            await asyncio.sleep(POLL_S)

    async def _release(self, begun: _Start) -> None:
        await change_topic_settings(self._admin, self._settings.topic, max_message_bytes=str(begun.max_message_bytes))
        self._say("producers are released")
