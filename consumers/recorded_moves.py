"""Moves of a replay: what was moved when the log was lived through counts as moved, and nothing is put on the topic.

The copies are in the log already. What was stored where it lies, by a version that did not move events, has no copy: it
is validated where it lies once more. Which of the two it is stands in the live tables.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from consumers.batch import Batch, Move, Rejected, ValidatedBatch
from consumers.moves import Mover, Moves, moves_of, not_moved
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import TallyError
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, OUTCOMES

IDS_PER_LOOKUP = 200
"""Each may have a namespace of its own, of up to 128 bytes and four times that escaped; a parameter has 128 KiB."""

_RECORDED = (
    "SELECT interaction_id, _partition, _offset, 'stored' AS verdict, '' AS reason, "
    "0 AS _copy_partition, 0 AS _copy_offset "
    f"FROM {INTERACTIONS} WHERE {{condition}} UNION ALL "
    "SELECT interaction_id, _partition, _offset, toString(verdict), reason, _copy_partition, _copy_offset "
    f"FROM {OUTCOMES} WHERE {{condition}}"
).replace(
    "{condition}",
    "namespace IN {namespaces:Array(String)} AND interaction_id IN {ids:Array(String)} AND _topic = {topic:String}",
)


class _Recorded(NamedTuple):
    """The outcome of a record in the live tables."""

    partition: int
    offset: int
    verdict: str
    reason: str
    copy_partition: int
    copy_offset: int


class RecordedMoves:
    """Moves what the tables of `live` say was moved."""

    def __init__(self, live: Settings, database: ClickHouse) -> None:
        self._live = live
        self._database = database
        self._committed: Mapping[int, int] = {}

    @classmethod
    @asynccontextmanager
    async def opened(cls, live: Settings) -> AsyncIterator["RecordedMoves"]:
        """With a connection of its own."""
        async with connect(live) as database:
            yield cls(live, database)

    async def set_apart(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take out what was moved. Raises TallyError for what the live workers have not come to yet."""
        lines = np.flatnonzero(validated.events.misplaced & ~validated.done)
        if not len(lines):
            return
        moves = moves_of(batch, validated.events[lines])
        recorded = await self._recorded(moves)
        stays = np.ones(len(validated.events), np.bool_)
        for line, move in zip(lines.tolist(), moves, strict=True):
            found = await self._what_became_of(move, recorded[move.interaction_id])
            if isinstance(found, Rejected):
                validated.rejected.append(found)
            elif found is not None:
                validated.moves.append(found)
            stays[line] = found is None
        validated.events, validated.done = validated.events[stays], validated.done[stays]

    async def send(self, _moves: Sequence[Move]) -> list[Rejected]:
        """Do nothing: the copies are there."""
        return []

    async def _recorded(self, moves: Sequence[Move]) -> Mapping[str, list[_Recorded]]:
        found: dict[str, list[_Recorded]] = defaultdict(list)
        for start in range(0, len(moves), IDS_PER_LOOKUP):
            some = moves[start : start + IDS_PER_LOOKUP]
            where = {
                "topic": self._live.topic,
                "namespaces": sorted({move.head.namespace for move in some}),
                "ids": [move.interaction_id for move in some],
            }
            for interaction_id, *row in await retrying(
                "looking up moves", partial(self._database.rows, _RECORDED, where)
            ):
                found[interaction_id].append(_Recorded(*row))
        return found

    async def _what_became_of(self, move: Move, recorded: Sequence[_Recorded]) -> Move | Rejected | None:
        """The move, with the place of its copy; or its rejection; or None when the event stays where it is."""
        for each in recorded:
            if (each.partition, each.offset) == (move.partition, move.offset):
                if each.verdict == "moved":
                    move.home, move.copy_offset = each.copy_partition, each.copy_offset
                    return move
                return not_moved(move, "as the live workers found") if each.reason == "not_moved" else None
        for each in recorded:  # the live tables may have lost the original's row: that is what replays are for
            if each.partition == move.home:
                move.copy_offset = each.offset
                return move
        if not await self._is_committed(move):
            raise TallyError(
                f"{self._live.topic}/{move.partition} offset {move.offset} is on another partition than its key's, and "
                f"the workers of group {self._live.group} (TALLY_GROUP) have not come to it yet: let them catch up, "
                "then replay again"
            )
        return None

    async def _is_committed(self, move: Move) -> bool:
        if self._committed.get(move.partition, 0) <= move.offset:
            async with kafka.admin(self._live) as admin:
                ask = partial(kafka.committed_offsets, admin, self._live.group, self._live.topic)
                self._committed = await retrying("asking what is committed", ask)
        return self._committed.get(move.partition, 0) > move.offset


def opened_mover(settings: Settings, live: Settings | None) -> AbstractAsyncContextManager[Mover]:
    """The mover of a worker, or of one that replays the log of the workers of `live`."""
    return Moves.opened(settings) if live is None else RecordedMoves.opened(live)
