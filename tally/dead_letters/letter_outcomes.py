"""Outcomes of dead letters: which events of a namespace were rejected, why, and what became of their replays."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, Self

from readers.outcomes import REJECTION_REASONS
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.settings import Settings
from schemas.event_time import END_MS, iso_ms, to_epoch_ms
from schemas.tables import DELETIONS, INTERACTIONS, OUTCOMES

MAX_GROUPS = 200
"""Maximum groups of one answer."""

ReplayStatus = Literal["accepted", "stored", "duplicate", "rejected", "deleted"]

_COLUMNS = ("_partition", "_offset", "timestamp", "interaction_id", "reason", "field", "message", "replayed_as")
_SELECTED = ", ".join(_COLUMNS)
_EXPLANATIONS = {str(reason): words for reason, words in REJECTION_REASONS.items()}
_POSITION = "(timestamp, _partition, _offset)"
_STATUSES: tuple[ReplayStatus, ...] = ("deleted", "stored", "duplicate", "rejected")
"""Statuses of an event, the one that counts first. A letter that is replayed under its own id (`stays` in a repair) is
no outcome of its replay."""
_STATUS = f"""
SELECT interaction_id, min(status) FROM (
    SELECT interaction_id, if(argMax(is_deleted, version), 0, 1) AS status FROM {INTERACTIONS}
    WHERE namespace IN {{namespaces:Array(String)}} AND interaction_id IN {{ids:Array(String)}} GROUP BY interaction_id
    UNION ALL
    SELECT interaction_id, 0 AS status FROM {DELETIONS}
    WHERE namespace IN {{namespaces:Array(String)}} AND interaction_id IN {{ids:Array(String)}}
    UNION ALL
    SELECT interaction_id, if(verdict = 'duplicate', 2, 3) AS status FROM {OUTCOMES} FINAL
    WHERE namespace IN {{namespaces:Array(String)}} AND interaction_id IN {{ids:Array(String)}}
        AND verdict != 'moved' AND replayed_as != interaction_id
) GROUP BY interaction_id
"""


class LetterPosition(NamedTuple):
    """Position of a letter in the order of append times. As text: ms/partition/offset."""

    append_ms: int
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ms/partition/offset. Raises ValueError."""
        numbers = [int(part) for part in text.split("/") if part.isascii() and part.isdigit()]
        if len(numbers) != len(cls._fields) or any(
            number >= end for number, end in zip(numbers, (END_MS, 2**31, 2**63), strict=True)
        ):
            raise ValueError("is not a cursor of this API")
        return cls(*numbers)

    def __str__(self) -> str:
        return f"{self.append_ms}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class LetterFilter:
    """Conditions on letters; None selects all. Times are append times of the rejected record."""

    reason: str | None = None
    field: str | None = None
    message: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    replayed: bool | None = None
    origins: Collection[tuple[int, int]] = ()
    """Partitions and offsets; empty selects all."""


class LetterOutcomes:
    """Queries about the dead letters of one namespace ('': of none). They raise Unavailable and StatementTimeout."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._topic = settings.topic
        self._database = database
        # Copies of a row have the same timestamp, so they are in the same part of the table.
        self._limits = {
            "max_execution_time": settings.list_timeout_ms / 1000,
            "do_not_merge_across_partitions_select_final": 1,
        }

    async def groups(self, namespace: str, wanted: LetterFilter) -> dict[str, Any]:
        """Return the numbers of letters by reason and field, the most first, and in total."""
        bind = BoundParameters()
        # The example is the newest letter that waits, else the newest. Its message is not read here: over millions of
        # letters that would take most of the time.
        sql = f"""
        SELECT *, sum(letters) OVER (), sum(replayed) OVER () FROM (
            SELECT reason, field, count() AS letters, countIf(replayed_as != '') AS replayed, min(timestamp),
                max(timestamp),
                argMax((_partition, _offset), toUnixTimestamp64Milli(timestamp) + if(replayed_as = '', {END_MS}, 0))
            FROM {OUTCOMES} FINAL WHERE {self._where(bind, namespace, wanted)} GROUP BY reason, field
        ) ORDER BY letters DESC, reason, field LIMIT {MAX_GROUPS}
        """
        rows = await self._database.rows(sql, bind.values, limits=self._limits)
        messages = await self._messages(namespace, [tuple(row[6]) for row in rows])
        groups = [
            {
                "reason": reason,
                "explanation": _explain(reason),
                "field": field or None,
                "letters": letters,
                "replayed": replayed,
                "waiting": letters - replayed,
                "first": iso_ms(first),
                "last": iso_ms(last),
                "example": {"partition": place[0], "offset": place[1], "message": messages.get(tuple(place), "")},
            }
            for reason, field, letters, replayed, first, last, place, *_ in rows
        ]
        total, replayed = rows[0][-2:] if rows else (0, 0)
        return {"groups": groups, "total": total, "waiting": total - replayed}

    async def _messages(self, namespace: str, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], str]:
        bind = BoundParameters()
        where = self._where(bind, namespace, LetterFilter(origins=places))
        sql = f"SELECT _partition, _offset, any(message) FROM {OUTCOMES} WHERE {where} GROUP BY _partition, _offset"
        rows = await self._database.rows(sql, bind.values, limits=self._limits) if places else ()
        return {(partition, offset): message for partition, offset, message in rows}

    async def page(
        self, namespace: str, wanted: LetterFilter, limit: int, after: LetterPosition | None
    ) -> tuple[list[dict[str, Any]], LetterPosition | None]:
        """Return letters, newest first, and the position that the next page follows."""
        bind = BoundParameters()
        where = self._where(bind, namespace, wanted)
        if after is not None:
            where += f" AND {_POSITION} < {_bound(bind, after)}"
        sql = (
            f"SELECT {_SELECTED} FROM {OUTCOMES} FINAL WHERE {where} "
            f"ORDER BY timestamp DESC, _partition DESC, _offset DESC LIMIT {limit + 1:d}"
        )
        rows = await self._database.rows(sql, bind.values, limits=self._limits)
        letters = [self._described(row) for row in rows[:limit]]
        return letters, _position_of(rows[limit - 1]) if len(rows) > limit else None

    async def one(self, namespace: str, partition: int, offset: int) -> tuple[dict[str, Any], int] | None:
        """Return a letter and its append time in ms since 1970, or None."""
        bind = BoundParameters()
        wanted = LetterFilter(origins=[(partition, offset)])
        # Without FINAL, which reads the whole namespace: the index on offsets finds the few rows.
        sql = (
            f"SELECT {_SELECTED} FROM {OUTCOMES} WHERE {self._where(bind, namespace, wanted)} "
            "ORDER BY replayed_as DESC LIMIT 1"
        )
        rows = await self._database.rows(sql, bind.values, limits=self._limits)
        return (self._described(rows[0]), _position_of(rows[0]).append_ms) if rows else None

    async def waiting(
        self, namespace: str, wanted: LetterFilter, most: int, after: LetterPosition | None
    ) -> tuple[list[LetterPosition], int, bool]:
        """Return the oldest letters without a replay, the number of replayed ones among them, and whether more wait."""
        bind = BoundParameters()
        where = self._where(bind, namespace, wanted)
        if after is not None:
            where += f" AND {_POSITION} > {_bound(bind, after)}"
        sql = (
            f"SELECT timestamp, _partition, _offset FROM {OUTCOMES} FINAL WHERE {where} AND replayed_as = '' "
            f"ORDER BY timestamp, _partition, _offset LIMIT {most + 1:d}"
        )
        rows = await self._database.rows(sql, bind.values, limits=self._limits)
        found = [LetterPosition(to_epoch_ms(row[0]), *row[1:]) for row in rows[:most]]
        if len(rows) > most:
            where += f" AND {_POSITION} <= {_bound(bind, found[-1])}"
        sql = f"SELECT count() FROM {OUTCOMES} FINAL WHERE {where} AND replayed_as != ''"
        ((replayed,),) = await self._database.rows(sql, bind.values, limits=self._limits)
        return found, replayed, len(rows) > most

    async def add_statuses(self, namespaces: Sequence[str], letters: Sequence[dict[str, Any]]) -> None:
        """Set the `replay_status` of letters, as known in these namespaces."""
        ids = [each["replayed_as"] for each in letters if each["replayed_as"]]
        where = {"namespaces": list(namespaces), "ids": ids}
        rows = await self._database.rows(_STATUS, where, limits=self._limits) if ids else ()
        known = {interaction_id: _STATUSES[status] for interaction_id, status in rows}
        for each in letters:
            each["replay_status"] = known.get(each["replayed_as"], "accepted") if each["replayed_as"] else None

    def _where(self, bind: BoundParameters, namespace: str, wanted: LetterFilter) -> str:
        """Return the conditions of rejections in a namespace, without deleted events."""
        name = bind.bind(namespace, "String")
        conditions = [
            f"namespace = {name}",
            f"_topic = {bind.bind(self._topic, 'String')}",
            "verdict = 'rejected'",
            f"interaction_id NOT IN (SELECT interaction_id FROM {DELETIONS} WHERE namespace = {name})",
        ]
        for test, value in (
            ("reason = ", wanted.reason),
            ("field = ", wanted.field),
            ("message = ", wanted.message),
            ("timestamp >= ", wanted.since),
            ("timestamp < ", wanted.until),
        ):
            if value is not None:
                conditions.append(test + bind.bind(value, "String"))
        if wanted.replayed is not None:
            conditions.append(f"replayed_as {'!=' if wanted.replayed else '='} ''")
        if wanted.origins:
            partitions = bind.bind([partition for partition, _ in wanted.origins], "Array(UInt32)")
            offsets = bind.bind([offset for _, offset in wanted.origins], "Array(UInt64)")
            # The first condition is that of the index on offsets.
            conditions.append(f"_offset IN {offsets} AND (_partition, _offset) IN arrayZip({partitions}, {offsets})")
        return " AND ".join(conditions)

    def _described(self, row: Sequence[Any]) -> dict[str, Any]:
        partition, offset, timestamp, interaction_id, reason, field, message, replayed_as = row
        return {
            "partition": partition,
            "offset": offset,
            "origin": f"{self._topic}/{partition}/{offset}",
            "timestamp": iso_ms(timestamp),
            "interaction_id": interaction_id,
            "reason": reason,
            "explanation": _explain(reason),
            "field": field or None,
            "message": message or None,
            "replayed_as": replayed_as or None,
        }


def _explain(reason: str) -> str:
    return _EXPLANATIONS.get(reason, reason)


def _position_of(row: Sequence[Any]) -> LetterPosition:
    return LetterPosition(to_epoch_ms(row[2]), row[0], row[1])


def _bound(bind: BoundParameters, position: LetterPosition) -> str:
    at_ms = f"fromUnixTimestamp64Milli({bind.bind(position.append_ms, 'Int64')}, 'UTC')"
    return f"({at_ms}, {bind.bind(position.partition, 'UInt32')}, {bind.bind(position.offset, 'UInt64')})"
