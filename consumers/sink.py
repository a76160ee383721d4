"""Sink: inserts rows into ClickHouse once, however often the insert is retried."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import lz4.frame

from consumers.batch import Duplicates, Move, RejectedRecord
from consumers.columns import duplicate_rows, interaction_rows, moved_rows, rejected_rows
from consumers.events import Event, Events, LineFlags, Places
from consumers.native_format import Block
from runtime.clickhouse import ClickHouse, Encoded
from runtime.errors import RowsRefused
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES

LZ4_LEVEL = -5
"""LZ4 level. Negative ones are faster: this one takes a fifth less time than 0, for rows that are 8 % larger."""


class InsertRows:
    """Rows of one insert, compressed as they are added, which takes a third of the memory."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._compressor: Any = lz4.frame.LZ4FrameCompressor(
            compression_level=LZ4_LEVEL, block_size=lz4.frame.BLOCKSIZE_MAX256KB, block_linked=False
        )
        self._columns: Sequence[str] = ()
        self._count = 0
        self.nbytes = 0
        """Compressed bytes held."""

    def __len__(self) -> int:
        return self._count

    def add(self, block: Block) -> None:
        """Append a block; every block has the same columns."""
        if block.rows:
            if not self._count:
                self._columns = block.columns
                self._keep(self._compressor.begin())
            self._keep(self._compressor.compress(block.raw))
            self._count += block.rows

    def _keep(self, chunk: bytes) -> None:
        # In pieces: one growing buffer would be copied to larger ones, with both in memory at a time.
        self._chunks.append(chunk)
        self.nbytes += len(chunk)

    def encoded(self, token: str) -> Encoded:
        """Finish the rows, to which nothing may be added after this."""
        if self._count:
            self._keep(self._compressor.flush())
        return Encoded(self._columns, self._chunks, token)


class InteractionRows(InsertRows):
    """Rows of `interactions` for one insert."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._places: list[Places] = []

    def encode(self, events: Events, deleted: LineFlags | None = None) -> Callable[[], None]:
        """Encode events, the deleted ones as tombstones; the returned function adds them."""
        rows, places = interaction_rows(self._topic, events, deleted), events.places

        def add() -> None:
            if rows.rows:
                self.add(rows)
                self._places.append(places)

        return add

    @property
    def token(self) -> str:
        """Deduplication token of the insert, made of its rows' places and ids."""
        return insert_token(self._topic, self._places)


class OutcomeRows(InsertRows):
    """Rows of `outcomes` for one insert: duplicates, rejections and moves."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._places: list[Places] = []
        self._others: list[tuple[int, int, str]] = []
        """Places and ids of rejections and moves."""

    def encode(self, duplicates: Duplicates | None, rejected: Sequence[RejectedRecord]) -> Callable[[], None]:
        """Encode outcomes; the returned function adds them."""
        blocks, places = [rejected_rows(self._topic, rejected)], list[Places]()
        if duplicates:
            blocks.insert(0, duplicate_rows(self._topic, duplicates))
            places.append(duplicates.events.places)
        named = [(item.partition, item.offset, item.interaction_id) for item in rejected]

        def add() -> None:
            for each in blocks:
                self.add(each)
            self._places += places
            self._others += named

        return add

    def add_moves(self, moves: Sequence[Move]) -> None:
        """Append moves."""
        self.add(moved_rows(self._topic, moves))
        self._others += [(move.partition, move.offset, move.interaction_id) for move in moves]

    @property
    def token(self) -> str:
        """Deduplication token of the insert, made of its rows' places and ids."""
        return f"{insert_token(self._topic, self._places)} {_hash(repr(self._others).encode())}"


class Sink:
    """Writer of one topic's events and outcomes."""

    def __init__(self, topic: str, database: ClickHouse) -> None:
        self._topic = topic
        self._database = database

    async def insert(self, rows: InteractionRows) -> None:
        """Insert rows into `interactions`; durable on return. Raises RowsRefused."""
        if len(rows):
            encoded = rows.encoded(rows.token)
            await retrying("storing events", lambda: self._database.insert(INTERACTIONS, encoded))

    async def store(self, events: Events) -> None:
        """Insert events into `interactions`; durable on return. Raises RowsRefused."""
        rows = InteractionRows(self._topic)
        rows.encode(events)()
        await self.insert(rows)

    async def first_refused(self, events: Events) -> tuple[Event, RowsRefused] | None:
        """Find the first of events that the table refuses, and store all before it; None when it takes all of them.

        No event after it is stored: a later one may be its duplicate, and has to be decided about again.
        """
        begin, end = 0, len(events)  # everything before `begin` is stored
        while begin < len(events):
            try:
                await self.store(events[begin:end])
            except RowsRefused as refused:
                if end - begin == 1:
                    return events.at(begin), refused
                end = begin + (end - begin) // 2
            else:
                begin, end = end, min(len(events), end + max(1, end - begin))
        return None

    async def record(self, rows: OutcomeRows) -> None:
        """Insert rows into `outcomes`; durable on return."""
        if len(rows):
            encoded = rows.encoded(rows.token)
            await retrying("recording outcomes", lambda: self._database.insert(OUTCOMES, encoded))


def insert_token(topic: str, inserted: Sequence[Places]) -> str:
    """Make an insert's deduplication token from the place and id of each row, in order.

    A batch that is cut differently after a crash is another insert with another token. With a token of the first offset
    alone ClickHouse would take it for the earlier, shorter insert, and drop its further rows.
    """
    return _hash(topic.encode(), *(column.tobytes() for places in inserted for column in places))


def _hash(*parts: bytes) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(b"%d " % len(part))
        hashed.update(part)
    return hashed.hexdigest()
