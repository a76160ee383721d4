"""Replay: the same log once more, judged anew into a database of its own, compared with what is stored, and swapped
in on request. The way back from a bad deploy.

A verdict needs both tables (stored, or an outcome), so what is replayed into is a database and not a table: there
they have their usual names, and every command works on it (`TALLY_DATABASE=... tally audit`).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from consumers.worker import Worker
from readers.log_range import LogRange, range_of_times
from runtime import kafka
from runtime.claims import Claims
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import SettingsError, TallyError
from runtime.migrate import migrate
from runtime.redis import connect_redis
from runtime.retry import FEW, retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, LEDGER, OUTCOMES

OFFSETS_PER_COPY = 5_000_000
OFFSETS_PER_COMPARISON = 2_000_000
DIFFERENCES_NAMED = 100

_COPIED = (INTERACTIONS, OUTCOMES)
_SWAPPED = (INTERACTIONS, OUTCOMES, LEDGER)

_OUTCOMES_OF = """
SELECT _offset, concat('stored ', interaction_id) AS outcome FROM {database}.interactions FINAL WHERE {where}
UNION ALL SELECT _offset, concat(toString(verdict), ' ', if(verdict = 'duplicate', duplicate_of, reason))
FROM {database}.outcomes FINAL WHERE {where}
"""
_IN_RANGE = (
    "_topic = {topic:String} AND _partition = {partition:UInt32} "
    "AND _offset >= {first:UInt64} AND _offset < {end:UInt64}"
)


class Difference(NamedTuple):
    """An offset whose outcome is another one now; empty where there is none."""

    partition: int
    offset: int
    before: str
    now: str


@dataclass
class Comparison:
    """What is stored against what was replayed, over the replayed offsets."""

    same: int = 0
    changed: int = 0
    """Another outcome, or one only on one side."""
    first: list[Difference] | None = None
    """The first hundred of them."""


class Replay:
    """One replay of `settings.topic` into a database. What an interrupted one did is kept, and it goes on there."""

    def __init__(self, settings: Settings, into: str, database: ClickHouse) -> None:
        if into == settings.database:
            raise SettingsError("--into names the database that is in use: name another one, it is created")
        self._live = settings
        self._target = settings.model_copy(
            update={
                "database": into,
                "group": f"{settings.group}.{into}",
                "key_prefix": f"{settings.key_prefix}.{into}",
                "accept_rejects": True,
            }
        )
        self._database = database
        self._ranges: dict[int, LogRange] = {}
        self.worker: Worker | None = None
        """The worker that judges, once it does."""

    @property
    def records(self) -> int:
        """How many offsets are replayed."""
        return sum(map(len, self._ranges.values()))

    async def prepare(self, since: datetime | None, until: datetime | None) -> None:
        """Find the offsets, and copy what lies outside of them. Raises TallyError when the ledger forbids the range."""
        await migrate(self._target)
        async with kafka.admin(self._live) as admin:
            partitions = await kafka.partition_numbers(admin, self._live.topic)
            begun = await kafka.committed_offsets(admin, self._target.group, self._live.topic)
        async with kafka.offset_reader(self._live) as log:
            bounds = await kafka.log_bounds(log, self._live.topic, partitions, in_group=False)
            for partition in partitions:
                place = TopicPartition(self._live.topic, partition)
                asked = await range_of_times(log, place, bounds[partition].end, since, until)
                self._ranges[partition] = asked.cut(bounds[partition].start, bounds[partition].end)
        if len(begun) < len(partitions):
            await self._copy_what_stays()
            await self._commit_starts()

    async def _copy_what_stays(self) -> None:
        for table in _SWAPPED:
            await self._command(f"TRUNCATE TABLE {self._target.database}.{table}")
        for table in _SWAPPED:
            await self._copy(table, "_topic != {topic:String}", {})
        for partition, replayed in self._ranges.items():
            await self._copy_ledger(partition, replayed)
            await self._copy_offsets(partition, LogRange(0, replayed.first))
            await self._copy_tail(partition)

    async def _copy_tail(self, partition: int) -> None:
        ask = f"SELECT greatest((SELECT max(_offset) FROM {INTERACTIONS} WHERE {_IN_RANGE}), " + (
            f"(SELECT max(_offset) FROM {OUTCOMES} WHERE {_IN_RANGE}))"
        )
        end = self._ranges[partition].end
        where = {"topic": self._live.topic, "partition": partition, "first": end, "end": 2**63}
        ((last,),) = await self._database.rows(ask, where)
        await self._copy_offsets(partition, LogRange(end, max(end, last + 1)))

    async def _copy_offsets(self, partition: int, offsets: LogRange) -> None:
        for piece in offsets.pieces(OFFSETS_PER_COPY):
            for table in _COPIED:
                await self._copy(table, _IN_RANGE, {"partition": partition, "first": piece.first, "end": piece.end})

    async def _copy_ledger(self, partition: int, replayed: LogRange) -> None:
        """Entries inside the range are made anew; one that reaches beyond it cannot be told apart."""
        where = {"topic": self._live.topic, "partition": partition, "first": replayed.first, "end": replayed.end}
        of_partition = "_topic = {topic:String} AND _partition = {partition:UInt32}"
        inside = "first_offset >= {first:UInt64} AND last_offset < {end:UInt64}"
        apart = "(last_offset < {first:UInt64} OR first_offset >= {end:UInt64})"
        straddling = await self._database.rows(
            f"SELECT first_offset, last_offset FROM {LEDGER} FINAL "
            f"WHERE {of_partition} AND NOT {apart} AND NOT ({inside}) LIMIT 1",
            where,
        )
        if straddling:
            first, last = straddling[0]
            raise TallyError(
                f"outcomes of partition {partition}, offsets {first} to {last}, are only counted together any more: "
                "choose --from and --to so that all or none of them are replayed"
            )
        await self._copy(LEDGER, f"{of_partition} AND {apart}", where)

    async def _copy(self, table: str, condition: str, where: Mapping[str, Any]) -> None:
        live, target = self._live.database, self._target.database
        sql = f"INSERT INTO {target}.{table} SELECT * FROM {live}.{table} WHERE {condition}"
        await self._command(sql, {"topic": self._live.topic, **where})

    async def _command(self, sql: str, where: Mapping[str, Any] | None = None) -> None:
        await retrying("copying", partial(self._database.command, sql, where), tries=FEW)

    async def _commit_starts(self) -> None:
        """From here on an interrupted replay goes on where it was."""
        async with _assigned(self._target, self._ranges) as consumer:
            await consumer.commit(
                {
                    TopicPartition(self._live.topic, partition): OffsetAndMetadata(replayed.first, "")
                    for partition, replayed in self._ranges.items()
                }
            )

    async def judge(self) -> None:
        """Judge every record of the range anew. Dead letters are not written again: they are there."""
        ends = {partition: replayed.end for partition, replayed in self._ranges.items()}
        self.worker = Worker(self._target, instance=None, until_caught_up=True, ends=ends, write_letters=False)
        await self.worker.run()

    async def compare(self) -> Comparison:
        """Compare the outcome of every replayed offset with the one that is stored."""
        result = Comparison(first=[])
        sides = [_OUTCOMES_OF.format(database=each.database, where=_IN_RANGE) for each in (self._live, self._target)]
        joined = f"({sides[0]}) AS before FULL OUTER JOIN ({sides[1]}) AS now ON before._offset = now._offset"
        for partition, replayed in self._ranges.items():
            for piece in replayed.pieces(OFFSETS_PER_COMPARISON):
                where = {"topic": self._live.topic, "partition": partition, "first": piece.first, "end": piece.end}
                counts = "countIf(before.outcome = now.outcome), countIf(before.outcome != now.outcome)"
                ((same, changed),) = await self._database.rows(f"SELECT {counts} FROM {joined}", where)
                result.same += same
                result.changed += changed
                if changed and result.first is not None and len(result.first) < DIFFERENCES_NAMED:
                    rows = await self._database.rows(
                        "SELECT greatest(before._offset, now._offset) AS at, before.outcome, now.outcome "
                        f"FROM {joined} WHERE before.outcome != now.outcome ORDER BY at LIMIT {DIFFERENCES_NAMED}",
                        where,
                    )
                    result.first += [Difference(partition, *row) for row in rows]
                    del result.first[DIFFERENCES_NAMED:]
        return result

    async def swap(self) -> None:
        """Put what was replayed into the place of what is stored, which is kept in the other database.

        Raises TallyError while workers run: they would write into both.
        """
        async with kafka.admin(self._live) as admin:
            await _refuse_members(admin, self._live.group)
            for partition in self._ranges:
                await self._copy_tail(partition)
            live, target = self._live.database, self._target.database
            pairs = ", ".join(f"{live}.{table} AND {target}.{table}" for table in _SWAPPED)
            await self._database.command(f"EXCHANGE TABLES {pairs}")
        async with connect_redis(self._live) as redis:
            await Claims(redis, self._live).forget_all(list(self._ranges))


async def _refuse_members(admin: Any, group: str) -> None:
    (answer,) = await admin.describe_consumer_groups([group])
    for _error, name, state, *_rest in answer.groups:
        if state not in ("Empty", "Dead"):
            raise TallyError(f"consumer group {name} has members ({state}): stop the workers, and swap again")


@asynccontextmanager
async def _assigned(settings: Settings, partitions: Mapping[int, LogRange]) -> AsyncIterator[AIOKafkaConsumer]:
    """A client that may commit for the group, without being a member of it."""
    client = AIOKafkaConsumer(bootstrap_servers=settings.kafka, group_id=settings.group, enable_auto_commit=False)
    await client.start()
    try:
        client.assign([TopicPartition(settings.topic, partition) for partition in partitions])
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def opened(settings: Settings, into: str) -> AsyncIterator[Replay]:
    """A replay with its connection."""
    async with connect(settings) as database:
        yield Replay(settings, into, database)
