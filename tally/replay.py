"""Replay: the same log once more, decided again into a database of its own, compared with what is stored, and swapped
in on request. The way back from a bad deploy.

A verdict needs both tables (stored, or an outcome), so what is replayed into is a database and not a table: there
they have their usual names, and every command works on it (`TALLY_DATABASE=... tally audit`).
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from pydantic import BaseModel

from consumers.claims.client import Claims
from consumers.worker import Worker
from readers.audit import audit
from readers.log_range import LogRange, range_of_times
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import SettingsError, TallyError
from runtime.expansions import Expansions
from runtime.faults.kafka import kafka_fault
from runtime.kafka_connection import connection_options
from runtime.migrate import migrate
from runtime.redis import connect_redis
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, to_epoch_ms
from tally.table_copy import TableCopy

OFFSETS_PER_COMPARISON = 2_000_000
DIFFERENCES_NAMED = 100

_STATE = "replay_state"

_OUTCOMES_OF = """
SELECT _offset, concat('stored ', interaction_id) AS outcome FROM {database}.interactions FINAL WHERE {where}
UNION ALL SELECT _offset, concat(toString(verdict), ' ', if(verdict = 'duplicate', duplicate_of, reason))
FROM {database}.outcomes FINAL WHERE {where}
"""
_IN_RANGE = (
    "_topic = {topic:String} AND _partition = {partition:UInt32} "
    "AND _offset >= {first:UInt64} AND _offset < {end:UInt64}"
)


class _State(BaseModel):
    """State of a replay, kept in its database: it is resumed as it was begun, or not at all."""

    topic: str
    since: datetime | None
    until: datetime | None
    ranges: dict[int, LogRange]
    phase: Literal["copying", "deciding", "swapping", "swapped"] = "copying"
    live_tables: dict[str, str] = {}
    """The UUIDs that the live tables had when the swap began."""


class Difference(NamedTuple):
    """An offset whose outcome is another one now; empty where there is none."""

    partition: int
    offset: int
    before: str
    now: str


@dataclass
class Comparison:
    """Comparison of stored with replayed outcomes, over the replayed offsets."""

    same: int = 0
    changed: int = 0
    """Another outcome, or one only on one side."""
    first: list[Difference] = field(default_factory=list)
    """The first hundred of them."""


class Replay:
    """One replay of `settings.topic` into a database. What an interrupted one did is kept, and it continues there."""

    def __init__(self, settings: Settings, into: str, database: ClickHouse) -> None:
        if into == settings.database:
            raise SettingsError("--into names the database that is in use: name another one, it is created")
        if settings.clickhouse_cluster:
            raise SettingsError(
                "a replay copies and swaps tables of one node, and TALLY_CLICKHOUSE_CLUSTER is set: consume the topic "
                "with another TALLY_DATABASE, TALLY_GROUP and TALLY_KEY_PREFIX instead"
            )
        own = {"database": into, "group": f"{settings.group}.{into}", "key_prefix": f"{settings.key_prefix}.{into}"}
        self._live = settings
        self._target = settings.model_copy(update={**own, "reject_policy": "drain"})
        self._database = database
        self._state: _State
        self.worker: Worker | None = None
        """The worker that judges, once it does."""

    @property
    def records(self) -> int:
        """How many offsets are replayed."""
        return sum(map(len, self._state.ranges.values()))

    def _copier(self) -> TableCopy:
        return TableCopy(
            self._database, self._live.database, self._target.database, self._live.topic, self._state.ranges
        )

    async def prepare(self, since: datetime | None, until: datetime | None) -> None:
        """Find the offsets, and copy what lies outside of them; or continue with what was begun.

        Raises TallyError when the database is not this replay's, or the ledger forbids the range.
        """
        found = await self._read_state()
        if found is None:
            ranges = await self._find_ranges(since, until)
            await migrate(self._target)
            columns = "(state String, at UInt64) ENGINE = MergeTree ORDER BY at"
            await self._database.command(f"CREATE TABLE {self._target.database}.{_STATE} {columns}")
            await self._save(_State(topic=self._live.topic, since=since, until=until, ranges=ranges))
        else:
            self._refuse_another(found, since, until)
            self._state = found
        if self._state.phase == "copying":
            await self._copier().copy_what_stays()
            await self._commit_starts()
            await self._forget_claims(self._target)
            await self._save(self._state.model_copy(update={"phase": "deciding"}))

    async def _find_ranges(self, since: datetime | None, until: datetime | None) -> dict[int, LogRange]:
        ranges = {}
        await self._refuse_expanded(since)
        async with kafka.admin(self._live) as admin:
            partitions = await kafka.partition_numbers(admin, self._live.topic)
        async with kafka.record_reader(self._live) as log:
            bounds = await kafka.log_bounds(log, self._live.topic, partitions)
            for partition in partitions:
                place = TopicPartition(self._live.topic, partition)
                ranges[partition] = await range_of_times(log, place, bounds[partition], since, until)
        return ranges

    async def _refuse_expanded(self, since: datetime | None) -> None:
        """Refuse a range before an expansion: inherited events would depend on events that are replayed themselves."""
        expansions = (await Expansions.read(self._live.topic, self._database)).all
        if expansions:
            clear_ms = expansions[-1].at_ms + self._live.reach_back_ms
            if since is None or to_epoch_ms(since) < clear_ms:
                raise TallyError(
                    "the topic was expanded, and what is replayed must not reach back to before that: "
                    f"--from {from_epoch_ms(clear_ms):%Y-%m-%dT%H:%M:%SZ} or later"
                )

    async def _read_state(self) -> _State | None:
        """None for a database that is not there. Raises TallyError for one that is somebody else's."""
        into = self._target.database
        tables = await self._tables(into)
        if not tables:
            return None
        if _STATE not in tables:
            raise TallyError(f"database {into} is there already and holds no replay: name another one for --into")
        rows = await self._database.rows(f"SELECT state FROM {into}.{_STATE} ORDER BY at DESC LIMIT 1")
        if not rows:
            raise TallyError(f"database {into} was hardly begun: DROP DATABASE {into}, and replay again")
        return _State.model_validate_json(rows[0][0])

    def _refuse_another(self, found: _State, since: datetime | None, until: datetime | None) -> None:
        into = self._target.database
        if found.phase == "swapped":
            raise TallyError(f"database {into} was swapped in, and holds what was stored before: replay into another")
        if (found.topic, found.since, found.until) != (self._live.topic, since, until):
            raise TallyError(
                f"database {into} holds a replay of {found.topic} from {found.since or 'the beginning'} to "
                f"{found.until or 'the end'}: continue with that one, or replay into another database"
            )

    async def _save(self, state: _State) -> None:
        row = {"state": state.model_dump_json(), "at": time.time_ns()}
        await self._database.command(
            f"INSERT INTO {self._target.database}.{_STATE} SELECT {{state:String}}, {{at:UInt64}}", row
        )
        self._state = state

    async def _commit_starts(self) -> None:
        starts = {
            TopicPartition(self._live.topic, partition): OffsetAndMetadata(replayed.first, "")
            for partition, replayed in self._state.ranges.items()
        }
        try:
            async with _assigned(self._target, starts) as consumer:
                await consumer.commit(starts)
        except KafkaError as error:
            raise kafka_fault(error, "committing where the replay begins") from error

    async def decide(self) -> None:
        """Decide about every record of the range again. Rejected records get a dead letter, if need be a second one."""
        if self._state.phase != "deciding":
            return
        ends = {partition: replayed.end for partition, replayed in self._state.ranges.items()}
        self.worker = Worker(self._target, instance=None, until_caught_up=True, ends=ends, live=self._live)
        await self.worker.run()
        await self._copier().keep_replayed_as()
        await self._copier().copy_deletions(erase=True)

    async def compare(self) -> Comparison:
        """Compare the outcome of every replayed offset with the one that is stored."""
        result = Comparison()
        sides = [_OUTCOMES_OF.format(database=each.database, where=_IN_RANGE) for each in (self._live, self._target)]
        joined = f"({sides[0]}) AS before FULL OUTER JOIN ({sides[1]}) AS now ON before._offset = now._offset"
        for partition, replayed in self._state.ranges.items():
            for piece in replayed.pieces(OFFSETS_PER_COMPARISON):
                where = {"topic": self._live.topic, "partition": partition, "first": piece.first, "end": piece.end}
                counts = "countIf(before.outcome = now.outcome), countIf(before.outcome != now.outcome)"
                ((same, changed),) = await self._database.rows(f"SELECT {counts} FROM {joined}", where)
                result.same += same
                result.changed += changed
                if changed and len(result.first) < DIFFERENCES_NAMED:
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

        Interrupted, it continues where it was. Raises TallyError while workers run, since they would write into both,
        and when not every replayed offset has one outcome.
        """
        copier, live, into = self._copier(), self._live.database, self._target.database
        if self._state.phase == "deciding":
            await self._refuse_unfinished()
            async with kafka.admin(self._live) as admin:
                await _refuse_members(admin, self._live.group)
            await copier.copy_what_came()
            tables = await self._tables(live)
            await self._save(self._state.model_copy(update={"phase": "swapping", "live_tables": tables}))
        for table in copier.TABLES:
            # Before and after: a worker that starts in between must not decide by claims of what is swapped out.
            await self._forget_claims(self._live)
            if (await self._tables(live))[table] == self._state.live_tables[table]:
                await self._database.command(f"EXCHANGE TABLES {live}.{table} AND {into}.{table}")
        await copier.copy_what_came(back=True)
        await copier.copy_deletions(erase=True)
        await self._forget_claims(self._live)
        await self._save(self._state.model_copy(update={"phase": "swapped"}))

    async def _refuse_unfinished(self) -> None:
        async with connect(self._target) as database:
            async for found in audit(self._target, database, ranges=self._state.ranges):
                if not found.balances or found.in_flight:
                    raise TallyError(
                        f"partition {found.partition} is not replayed whole, so nothing is swapped: {found}"
                    )

    async def _tables(self, database: str) -> dict[str, str]:
        """A database's tables and their UUIDs, which go with a table when it is exchanged."""
        sql = "SELECT name, toString(uuid) FROM system.tables WHERE database = {database:String}"
        return dict(await self._database.rows(sql, {"database": database}))  # type: ignore[arg-type]

    async def _forget_claims(self, settings: Settings) -> None:
        async with connect_redis(settings) as redis:
            await Claims(redis, settings).forget_all(list(self._state.ranges))


async def _refuse_members(admin: Any, group: str) -> None:
    try:
        (answer,) = await admin.describe_consumer_groups([group])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the members of {group}") from error
    for _error, name, state, *_rest in answer.groups:
        if state not in ("Empty", "Dead"):
            raise TallyError(f"consumer group {name} has members ({state}): stop the workers, and swap again")


@asynccontextmanager
async def _assigned(settings: Settings, places: Mapping[TopicPartition, object]) -> AsyncIterator[AIOKafkaConsumer]:
    """A client that may commit for the group, without being a member of it."""
    client = AIOKafkaConsumer(**connection_options(settings), group_id=settings.group, enable_auto_commit=False)
    await client.start()
    try:
        client.assign(list(places))
        yield client
    finally:
        await client.stop()


@asynccontextmanager
async def opened(settings: Settings, into: str) -> AsyncIterator[Replay]:
    """A replay with its connection."""
    async with connect(settings) as database:
        yield Replay(settings, into, database)
