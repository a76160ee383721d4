"""Replay of the log into another database, comparison with the stored outcomes, and a swap on request.

It repairs the outcomes of a faulty deployment. An outcome is a row of one of two tables, so the target is a database:
its tables have their usual names, and every command works on it (`TALLY_DATABASE=... tally audit`).
"""

import time
from datetime import datetime
from typing import Any, Literal

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
from runtime.faults.redis import REDIS_FAILED, redis_fault
from runtime.kafka_connection import connection_options
from runtime.migrate import migrate
from runtime.redis import connect_redis
from runtime.session_signals import SessionSignals
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, to_epoch_ms
from tally.comparison import Comparison, compare
from tally.table_copy import TableCopy

_STATE = "replay_state"


class _State(BaseModel):
    """State of a replay, kept in its database: a replay is resumed with the same arguments only."""

    topic: str
    since: datetime | None
    until: datetime | None
    ranges: dict[int, LogRange]
    phase: Literal["copying", "deciding", "swapping", "swapped"] = "copying"
    live_tables: dict[str, str] = {}
    """UUIDs of the live tables at the start of the swap."""


class Replay:
    """Replay of `settings.topic` into a database. It continues where an interrupted one ended."""

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
        """Worker that decides; None before."""

    @property
    def records(self) -> int:
        """Number of offsets to replay."""
        return sum(map(len, self._state.ranges.values()))

    def _copier(self) -> TableCopy:
        return TableCopy(
            self._database, self._live.database, self._target.database, self._live.topic, self._state.ranges
        )

    async def prepare(self, since: datetime | None, until: datetime | None) -> None:
        """Choose the offsets and copy the rows outside of them, or continue an interrupted replay.

        Raises TallyError when the database holds something else, or the ledger has no counts for the range alone.
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
            await self._copier().copy_outside()
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
        """Refuse a range before an expansion: claims that partitions inherited would depend on replayed events."""
        expansions = (await Expansions.read(self._live.topic, self._database)).all
        if expansions:
            clear_ms = expansions[-1].at_ms + self._live.reach_back_ms
            if since is None or to_epoch_ms(since) < clear_ms:
                raise TallyError(
                    "the topic was expanded, and a replay must not reach back to before that: "
                    f"--from {from_epoch_ms(clear_ms):%Y-%m-%dT%H:%M:%SZ} or later"
                )

    async def _read_state(self) -> _State | None:
        """Return the state, or None without the database. Raises TallyError for a database that holds no replay."""
        into = self._target.database
        tables = await self._tables(into)
        if not tables:
            return None
        if _STATE not in tables:
            raise TallyError(f"database {into} exists and holds no replay: name another one for --into")
        rows = await self._database.rows(f"SELECT state FROM {into}.{_STATE} ORDER BY at DESC LIMIT 1")
        if not rows:
            raise TallyError(f"database {into} holds no state of its replay: DROP DATABASE {into}, and replay again")
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
            # Without a subscription: it commits for the group, and is no member of it.
            options = {**connection_options(self._target), "group_id": self._target.group, "enable_auto_commit": False}
            async with AIOKafkaConsumer(**options) as consumer:
                consumer.assign(list(starts))
                await consumer.commit(starts)
        except KafkaError as error:
            raise kafka_fault(error, "committing the first offsets of the replay") from error

    async def decide(self) -> None:
        """Decide about every record of the range. Rejected records get a dead letter, possibly a second one."""
        if self._state.phase != "deciding":
            return
        ends = {partition: replayed.end for partition, replayed in self._state.ranges.items()}
        self.worker = Worker(self._target, instance=None, until_caught_up=True, ends=ends, live=self._live)
        await self.worker.run()
        await self._copier().keep_replayed_as()
        await self._copier().copy_deletions(erase=True)
        await self._renew_sessions()

    async def compare(self) -> Comparison:
        """Compare the outcome of every replayed offset with the stored one."""
        live, target, topic = self._live.database, self._target.database, self._live.topic
        return await compare(self._database, live, target, topic, self._state.ranges)

    async def swap(self) -> None:
        """Exchange the replayed tables with the live ones. The other database keeps the old tables.

        An interrupted swap can be continued. Raises TallyError while workers run, since they would write into both
        databases, and when a replayed offset has no outcome or several.
        """
        copier, live, into = self._copier(), self._live.database, self._target.database
        if self._state.phase == "deciding":
            await self._refuse_unfinished()
            async with kafka.admin(self._live) as admin:
                await _refuse_members(admin, self._live.group)
            await copier.copy_new_rows()
            tables = await self._tables(live)
            await self._save(self._state.model_copy(update={"phase": "swapping", "live_tables": tables}))
        for table in copier.TABLES:
            # Before and after: a worker that starts in between must not decide by claims of the old tables.
            await self._forget_claims(self._live)
            if (await self._tables(live))[table] == self._state.live_tables[table]:
                await self._database.command(f"EXCHANGE TABLES {live}.{table} AND {into}.{table}")
        await copier.copy_new_rows(back=True)
        await copier.copy_deletions(erase=True)
        await self._forget_claims(self._live)
        await self._renew_sessions()
        await self._save(self._state.model_copy(update={"phase": "swapped"}))

    async def _refuse_unfinished(self) -> None:
        async with connect(self._target) as database:
            async for found in audit(self._target, database, ranges=self._state.ranges):
                if not found.balances or found.in_flight:
                    raise TallyError(
                        f"partition {found.partition} is not completely replayed, so nothing is swapped: {found}"
                    )

    async def _tables(self, database: str) -> dict[str, str]:
        """Return the tables of a database with their UUIDs, which an exchange of tables moves too."""
        sql = "SELECT name, toString(uuid) FROM system.tables WHERE database = {database:String}"
        return dict(await self._database.rows(sql, {"database": database}))  # type: ignore[arg-type]

    async def _forget_claims(self, settings: Settings) -> None:
        async with connect_redis(settings) as redis:
            await Claims(redis, settings).forget_all(list(self._state.ranges))

    async def _renew_sessions(self) -> None:
        """Make readers count session signals from the tables that are live now."""
        async with connect_redis(self._live) as redis:
            try:
                await SessionSignals(self._live).renew(redis)
            except REDIS_FAILED as error:
                raise redis_fault(error) from error


async def _refuse_members(admin: Any, group: str) -> None:
    try:
        (answer,) = await admin.describe_consumer_groups([group])
    except KafkaError as error:
        raise kafka_fault(error, f"asking for the members of {group}") from error
    for _error, name, state, *_rest in answer.groups:
        if state not in ("Empty", "Dead"):
            raise TallyError(f"consumer group {name} has members ({state}): stop the workers, and swap again")
