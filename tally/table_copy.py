"""Copies between the live database and that of a replay, in pieces that keep each statement short."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from readers.log_range import LogRange
from runtime.clickhouse import ClickHouse
from runtime.deletions import erasure_statement
from runtime.errors import TallyError
from runtime.retry import COMMAND_ATTEMPTS, retrying
from schemas.tables import DELETIONS, INTERACTIONS, LEDGER, OUTCOMES

OFFSETS_PER_COPY = 500_000

_OF_PARTITION = "_topic = {topic:String} AND _partition = {partition:UInt32}"
_IN_RANGE = f"{_OF_PARTITION} AND _offset >= {{first:UInt64}} AND _offset < {{end:UInt64}}"
_ENDS = "SELECT _topic, _partition, max(_offset) + 1 FROM {table} GROUP BY _topic, _partition"
_LEDGER_APART = f"{_OF_PARTITION} AND (last_offset < {{first:UInt64}} OR first_offset >= {{end:UInt64}})"
_LEDGER_ACROSS = (
    f"SELECT first_offset, last_offset FROM {LEDGER} FINAL WHERE {_OF_PARTITION} AND first_offset < {{end:UInt64}} "
    "AND last_offset >= {first:UInt64} AND NOT (first_offset >= {first:UInt64} AND last_offset < {end:UInt64}) LIMIT 1"
)


class TableCopy:
    """Copies between two databases of the rows outside the replayed ranges (one per partition of `topic`)."""

    TABLES = (INTERACTIONS, OUTCOMES, LEDGER)

    def __init__(
        self, database: ClickHouse, live: str, target: str, topic: str, ranges: Mapping[int, LogRange]
    ) -> None:
        self._database = database
        self._live, self._target = live, target
        self._topic = topic
        self._ranges = ranges

    async def copy_outside(self) -> None:
        """Fill the target with everything that is not replayed. Raises TallyError for a ledger entry across a bound."""
        for table in self.TABLES:
            await self._run(f"TRUNCATE TABLE {self._target}.{table}", {})
        for partition, replayed in self._ranges.items():
            await self._copy_ledger(partition, replayed)
            for table in (INTERACTIONS, OUTCOMES):
                await self._copy(table, self._topic, partition, LogRange(0, replayed.first), back=False)
        others = {"topic": self._topic}
        ledger = (
            f"INSERT INTO {self._target}.{LEDGER} SELECT * FROM {self._live}.{LEDGER} WHERE _topic != {{topic:String}}"
        )
        await self._run(ledger, others)
        await self.copy_deletions()
        await self.copy_new_rows()

    async def copy_deletions(self, *, erase: bool = False) -> None:
        """Copy deletions. `erase`: also apply them to the rows of both databases."""
        deletions = f"INSERT INTO {self._target}.{DELETIONS} SELECT * FROM {self._live}.{DELETIONS}"
        await self._run(deletions, {})
        if erase:
            for database in (self._target, self._live):
                await self._run(erasure_statement(database), {})

    async def copy_new_rows(self, *, back: bool = False) -> None:
        """Copy newer rows than the ranges, and rows of other topics, that the other side lacks. `back`: into live."""
        source, target = (self._target, self._live) if back else (self._live, self._target)
        for table in (INTERACTIONS, OUTCOMES):
            there = await self._ends(f"{target}.{table}")
            for place, end in (await self._ends(f"{source}.{table}")).items():
                topic, partition = place
                first = there.get(place, 0)
                if topic == self._topic and partition in self._ranges:
                    first = max(first, self._ranges[partition].end)
                await self._copy(table, topic, partition, LogRange(first, max(first, end)), back=back)

    async def keep_replayed_as(self) -> None:
        """Copy `replayed_as` of rejected events to their replayed outcomes, when those are rejections again."""
        rejected = f"SELECT * FROM {self._target}.{OUTCOMES} FINAL WHERE {_IN_RANGE} AND verdict = 'rejected'"
        before = (
            f"SELECT _offset, replayed_as FROM {self._live}.{OUTCOMES} FINAL WHERE {_IN_RANGE} AND replayed_as != ''"
        )
        sql = (
            f"INSERT INTO {self._target}.{OUTCOMES} SELECT again.* REPLACE (before.replayed_as AS replayed_as) "
            f"FROM ({rejected}) AS again INNER JOIN ({before}) AS before ON again._offset = before._offset"
        )
        for partition, replayed in self._ranges.items():
            for piece in replayed.pieces(OFFSETS_PER_COPY):
                await self._run(sql, self._where(self._topic, partition, piece))

    async def _ends(self, table: str) -> dict[tuple[str, int], int]:
        rows = await self._database.rows(_ENDS.format(table=table))
        return {(topic, partition): end for topic, partition, end in rows}

    async def _copy_ledger(self, partition: int, replayed: LogRange) -> None:
        """Copy entries outside the range. Raises TallyError for an entry that is partly inside: it is one sum."""
        where = self._where(self._topic, partition, replayed)
        for first, last in await self._database.rows(_LEDGER_ACROSS, where):
            raise TallyError(
                f"outcomes of partition {partition}, offsets {first} to {last}, have expired into one count: "
                "choose --from and --to so that all or none of them are replayed"
            )
        columns = f"SELECT * FROM {self._live}.{LEDGER} WHERE {_LEDGER_APART}"
        await self._run(f"INSERT INTO {self._target}.{LEDGER} {columns}", where)

    async def _copy(self, table: str, topic: str, partition: int, offsets: LogRange, *, back: bool) -> None:
        source, target = (self._target, self._live) if back else (self._live, self._target)
        sql = f"INSERT INTO {target}.{table} SELECT * FROM {source}.{table} WHERE {_IN_RANGE}"
        for piece in offsets.pieces(OFFSETS_PER_COPY):
            await self._run(sql, self._where(topic, partition, piece))

    @staticmethod
    def _where(topic: str, partition: int, offsets: LogRange) -> dict[str, Any]:
        return {"topic": topic, "partition": partition, "first": offsets.first, "end": offsets.end}

    async def _run(self, sql: str, where: Mapping[str, Any]) -> None:
        await retrying("copying", partial(self._database.command, sql, where), tries=COMMAND_ATTEMPTS)
