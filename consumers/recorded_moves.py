"""Moves of a replay: events that the live workers moved count as moved, and nothing is written to the topic.

The copies are in the log already. A misplaced event with another outcome has no copy: it is decided about where it is.
The live tables tell the two cases apart.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from consumers.batch import Batch, Move, RejectedRecord, ValidatedBatch
from consumers.moves import moves_of, not_moved
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import TallyError
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.tables import INTERACTIONS, OUTCOMES

IDS_PER_LOOKUP = 200
"""Ids of one query: each may have its own namespace of up to 128 bytes, four times that escaped, and a bound parameter
has at most 128 KiB."""

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


class _RecordedOutcome(NamedTuple):
    """Outcome of a record in the live tables."""

    partition: int
    offset: int
    verdict: str
    reason: str
    copy_partition: int
    copy_offset: int


class ReplayMover:
    """Mover of a worker that replays the log of the workers of `live`."""

    def __init__(self, live: Settings, database: ClickHouse) -> None:
        self._live = live
        self._database = database
        self._committed: Mapping[int, int] = {}

    async def set_apart(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Turn events that were moved into moves. Raises TallyError when the live workers have not read one yet."""
        lines = np.flatnonzero(validated.events.misplaced & ~validated.done)
        if not len(lines):
            return
        moves = moves_of(batch, validated.events[lines])
        recorded = await self._recorded(moves)
        stays = np.ones(len(validated.events), np.bool_)
        for line, move in zip(lines.tolist(), moves, strict=True):
            found = await self._find_move(move, recorded[move.interaction_id])
            if isinstance(found, RejectedRecord):
                validated.rejected.append(found)
            elif found is not None:
                validated.moves.append(found)
            stays[line] = found is None
        validated.events, validated.done = validated.events[stays], validated.done[stays]

    async def send(self, _moves: Sequence[Move]) -> list[RejectedRecord]:
        """Do nothing: the copies are in the log."""
        return []

    async def _recorded(self, moves: Sequence[Move]) -> Mapping[str, list[_RecordedOutcome]]:
        found: dict[str, list[_RecordedOutcome]] = defaultdict(list)
        for start in range(0, len(moves), IDS_PER_LOOKUP):
            some = moves[start : start + IDS_PER_LOOKUP]
            where = {
                "topic": self._live.topic,
                "namespaces": sorted({move.headers.namespace for move in some}),
                "ids": [move.interaction_id for move in some],
            }
            for interaction_id, *row in await retrying(
                "looking up moves", partial(self._database.rows, _RECORDED, where)
            ):
                found[interaction_id].append(_RecordedOutcome(*row))
        return found

    async def _find_move(self, move: Move, recorded: Sequence[_RecordedOutcome]) -> Move | RejectedRecord | None:
        """Return the move with the place of its copy, or its rejection, or None when the event was not moved."""
        for each in recorded:
            if (each.partition, each.offset) == (move.partition, move.offset):
                if each.verdict == "moved":
                    move.home, move.copy_offset = each.copy_partition, each.copy_offset
                    return move
                return not_moved(move, "as the live workers found") if each.reason == "not_moved" else None
        for each in recorded:  # the live tables may have lost the original's row: replays repair that
            if each.partition == move.home:
                move.copy_offset = each.offset
                return move
        if not await self._is_committed(move):
            raise TallyError(
                f"{self._live.topic}/{move.partition} offset {move.offset} is on another partition than its key's, and "
                f"the workers of group {self._live.group} (TALLY_GROUP) have not read it yet: let them catch up, "
                "then replay again"
            )
        return None

    async def _is_committed(self, move: Move) -> bool:
        if self._committed.get(move.partition, 0) <= move.offset:
            async with kafka.admin(self._live) as admin:
                ask = partial(kafka.committed_offsets, admin, self._live.group, self._live.topic)
                self._committed = await retrying("reading committed offsets", ask)
        return self._committed.get(move.partition, 0) > move.offset
