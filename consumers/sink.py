"""The sink: inserts rows once, however often the insert has to be tried."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import lz4.frame

from consumers.batch import Duplicates, Move, Rejected
from consumers.columns import duplicate_rows, interaction_rows, moved_rows, rejected_rows
from consumers.events import Event, Events, Flags, Places
from consumers.native_format import Block
from runtime.clickhouse import ClickHouse, EncodedRows
from runtime.errors import RowsRefused
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES

LZ4_LEVEL = -5
"""Negative levels are faster: this takes a fifth less time than 0, for rows that are 8 % larger."""


class Rows:
    """Rows for one insert, compressed as they are added: so they take a third of their memory."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._compressor: Any = lz4.frame.LZ4FrameCompressor(
            compression_level=LZ4_LEVEL, block_size=lz4.frame.BLOCKSIZE_MAX256KB, block_linked=False
        )
        self._columns: Sequence[str] = ()
        self._count = 0
        self.nbytes = 0
        """Bytes that are held."""

    def __len__(self) -> int:
        return self._count

    def add(self, block: Block) -> None:
        """Put more after those that are there: every block has the same columns."""
        if block.rows:
            if not self._count:
                self._columns = block.columns
                self._keep(self._compressor.begin())
            self._keep(self._compressor.compress(block.raw))
            self._count += block.rows

    def _keep(self, chunk: bytes) -> None:
        """As pieces: one buffer for all would be moved to a larger one again and again, both in memory at a time."""
        self._chunks.append(chunk)
        self.nbytes += len(chunk)

    def encoded(self, token: str) -> EncodedRows:
        """All of them. Nothing may be added any more."""
        if self._count:
            self._keep(self._compressor.flush())
        return EncodedRows(self._columns, self._chunks, token)


class InteractionRows(Rows):
    """Rows of `interactions` for one insert."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._places: list[Places] = []

    def prepared(self, events: Events, deleted: Flags | None = None) -> Callable[[], None]:
        """Encode events, the deleted ones as tombstones. Calling the answer adds them; nothing is added before."""
        rows, places = interaction_rows(self._topic, events, deleted), events.places

        def add() -> None:
            if rows.rows:
                self.add(rows)
                self._places.append(places)

        return add

    @property
    def token(self) -> str:
        """Names the insert by exactly what is in it."""
        return insert_token(self._topic, self._places)


class OutcomeRows(Rows):
    """Rows of `outcomes` for one insert: what was not stored, and why."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic
        self._places: list[Places] = []
        self._others: list[tuple[int, int, str]] = []
        """Rejections and moves: their places and ids."""

    def prepared(self, duplicates: Duplicates | None, rejected: Sequence[Rejected]) -> Callable[[], None]:
        """Encode outcomes. Calling the answer adds them; nothing is added before."""
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
        """Put events that were moved after those that are there."""
        self.add(moved_rows(self._topic, moves))
        self._others += [(move.partition, move.offset, move.interaction_id) for move in moves]

    @property
    def token(self) -> str:
        """Names the insert by exactly what is in it."""
        return f"{insert_token(self._topic, self._places)} {_hash(repr(self._others).encode())}"


class Sink:
    """Writes one topic's events and outcomes."""

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
        rows.prepared(events)()
        await self.insert(rows)

    async def first_refused(self, events: Events) -> tuple[Event, RowsRefused] | None:
        """Find the first event that is refused alone among events refused together; all before it get stored.

        No event after it is stored: that one may be its duplicate, and has to be validated again without it.
        None when all were stored after all.
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
    """Names an insert by exactly what is in it: the place and the id of each row, in their order.

    A batch cut differently after a crash is another insert and gets another token: one named by its first
    offset alone would be taken for the earlier, shorter insert, and its further rows would be dropped unseen.
    """
    return _hash(topic.encode(), *(column.tobytes() for places in inserted for column in places))


def _hash(*parts: bytes) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(b"%d " % len(part))
        hashed.update(part)
    return hashed.hexdigest()
