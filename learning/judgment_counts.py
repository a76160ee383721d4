"""Counts of items, pairs of query and document, with their texts, streamed from ClickHouse."""

import asyncio
from array import array
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from learning.counts import MAX_SEGMENTS
from learning.estimators.judging import JudgedCells
from learning.scope import LearningScope, Refusal, select_shown
from runtime.analytics import bounded_stream, range_errors
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.base import reward_of
from schemas.rewards import MICROS, RewardMap

_Row = tuple[str, str, int, list[tuple[str, int, int, int]]]
"""Query, document, highest reward in millionths, and (segment, position, impressions, clicks) of its cells."""
_SETTINGS = {"output_format_json_named_tuples_as_objects": 0}


class ItemCounts(NamedTuple):
    """Counts of the items of a scope, in order of query and document. Texts are compared by code points."""

    queries: list[str]
    """Queries, each once, ascending."""
    documents: list[str]
    """Document of each item."""
    query: npt.NDArray[np.int64]
    """Number of each item's query in `queries`."""
    highest_reward: npt.NDArray[np.float64]
    """Highest reward of an interaction with each item."""
    segments: list[str]
    """Segments, by their numbers in `cells`."""
    cells: JudgedCells
    without_query: int
    """Impressions of executions without a query text, which are in no item."""


async def read_item_counts(
    settings: Settings, database: ClickHouse, scope: LearningScope, rewards: RewardMap
) -> ItemCounts:
    """Return the counts of all items.

    Memory: 40 bytes for each of at most TALLY_LEARNING_CELLS cells, and TALLY_LEARNING_TEXT_BYTES of texts. Raises
    Refusal for more, and where nothing was shown for a query; RangeTooLarge; Unavailable.
    """
    statement = _statement(scope, rewards)
    reader = _Reader(settings)
    with range_errors(settings, "the count of items"):
        async with bounded_stream(settings, database, statement, scope.parameters(), _SETTINGS) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(reader.add, piece)
    found = reader.counts()
    scope.check_shown(
        is_any=bool(found.documents or found.without_query),
        has_query=bool(found.documents),
        has_segment=any(found.segments),
    )
    return found


def _statement(scope: LearningScope, rewards: RewardMap) -> str:
    reward = reward_of(rewards.rewards, rewards.most) if rewards.rewards else "0."
    shown = select_shown(scope, more={"best_reward": reward})
    return f"""
SELECT query, feature_id, max(best), arraySort(groupArray((segment, position, impressions, clicks)))
FROM (
    SELECT
        query, feature_id, segment, position,
        toUInt32(count()) AS impressions, toUInt32(sum(clicked)) AS clicks,
        toInt32(round(max(best_reward) * {MICROS})) AS best
    FROM ({shown})
    GROUP BY query, feature_id, segment, position
)
GROUP BY query, feature_id
ORDER BY query, feature_id
FORMAT JSONCompactEachRow"""


class _Reader:
    """Rows of `_statement`, as arrays."""

    def __init__(self, settings: Settings) -> None:
        self._most_cells, self._most_bytes = settings.learning_cells, settings.learning_text_bytes
        self._decoder = msgspec.json.Decoder(_Row)
        self._rest = b""
        self._bytes = 0
        self._queries, self._documents = list[str](), list[str]()
        self._segments = dict[str, int]()
        self._query, self._reward = array("q"), array("q")
        self._cells = tuple(array("q") for _ in JudgedCells._fields[:-1])
        self._without_query = 0

    def add(self, piece: bytes) -> None:
        """Take a piece of the result. Raises Refusal for more than one set of judgments may hold."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._add_row(self._decoder.decode(line))
        if self._bytes + len(self._rest) > self._most_bytes:
            raise Refusal(
                f"queries and documents have more than {self._most_bytes:,} bytes: choose a shorter range, or raise "
                "TALLY_LEARNING_TEXT_BYTES"
            )
        if len(self._cells[0]) > self._most_cells:
            raise Refusal(
                f"the range has more than {self._most_cells:,} counts: choose a shorter one, or raise "
                "TALLY_LEARNING_CELLS"
            )

    def _add_row(self, row: _Row) -> None:
        query, document, best, cells = row
        if not query:
            self._without_query += sum(impressions for _, _, impressions, _ in cells)
            return
        if not self._queries or self._queries[-1] != query:
            self._queries.append(query)
            self._bytes += len(query.encode())
        self._bytes += len(document.encode())
        number = len(self._documents)
        self._documents.append(document)
        self._query.append(len(self._queries) - 1)
        self._reward.append(best)
        for segment, *counts in cells:
            values = (number, self._segment(segment), *counts)
            for column, value in zip(self._cells, values, strict=True):
                column.append(value)

    def _segment(self, text: str) -> int:
        number = self._segments.setdefault(text, len(self._segments))
        if number == MAX_SEGMENTS:
            raise Refusal(f"the segments have more than {MAX_SEGMENTS:,} values: choose a text with fewer")
        return number

    def counts(self) -> ItemCounts:
        """Return everything that was added."""
        item, segment, position, impressions, clicks = (np.array(each, np.int64) for each in self._cells)
        return ItemCounts(
            self._queries,
            self._documents,
            np.array(self._query, np.int64),
            np.array(self._reward, np.int64) / MICROS,
            list(self._segments),
            JudgedCells(item, segment, position, impressions, clicks, len(self._documents)),
            self._without_query,
        )
