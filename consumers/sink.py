"""The sink: inserts rows once, however often the insert has to be tried."""

import hashlib
from collections.abc import Sequence
from io import BytesIO

import pyarrow as pa

from consumers.batch import Duplicates, Rejected
from consumers.columns import duplicate_rows, interaction_rows, rejected_rows
from consumers.events import Event, Events, Places
from runtime.clickhouse import ClickHouse, Encoded
from runtime.faults import RowsRefused
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES


class Rows:
    """Rows for one insert, encoded as they are added: so they take a quarter of their memory."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._written = BytesIO()
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._columns: list[str] = []
        self._count = 0
        self.nbytes = 0
        """Bytes that are held."""

    def __len__(self) -> int:
        return self._count

    def add(self, rows: pa.Table) -> None:
        """Put more behind those that are there."""
        if rows.num_rows:
            if self._writer is None:
                self._columns = rows.schema.names
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_stream(pa.PythonFile(self._written), rows.schema, options=options)
            self._writer.write_table(rows)
            self._count += rows.num_rows
            self._keep_written()

    def _keep_written(self) -> None:
        """As pieces: one buffer for all would be moved to a larger one again and again, both in memory at a time."""
        self._chunks.append(self._written.getvalue())
        self.nbytes += len(self._chunks[-1])
        self._written.seek(0)
        self._written.truncate()

    def encoded(self, token: str) -> Encoded:
        """All of them. Nothing may be added any more."""
        if self._writer is not None:
            self._writer.close()
            self._keep_written()
        return Encoded(self._columns, self._chunks, token)


class InteractionRows:
    """Rows of `interactions` for one insert."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._rows = Rows()
        self._places: list[Places] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._rows.nbytes

    def add(self, events: Events) -> None:
        """Put more behind those that are there."""
        if len(events):
            self._rows.add(interaction_rows(self._topic, events))
            self._places.append(events.places)

    def encoded(self) -> Encoded:
        """All of them. Nothing may be added any more."""
        return self._rows.encoded(insert_token(self._topic, self._places))


class OutcomeRows:
    """Rows of `outcomes` for one insert: what was not stored, and why."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._rows = Rows()
        self._places: list[Places] = []
        self._rejected: list[tuple[int, int, str]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, duplicates: Duplicates | None, rejected: Sequence[Rejected]) -> None:
        """Put more behind those that are there."""
        if duplicates:
            self._rows.add(duplicate_rows(self._topic, duplicates))
            self._places.append(duplicates.events.places)
        self._rows.add(rejected_rows(self._topic, rejected))
        self._rejected += [(item.partition, item.offset, item.interaction_id) for item in rejected]

    def encoded(self) -> Encoded:
        """All of them. Nothing may be added any more."""
        token = f"{insert_token(self._topic, self._places)} {_hash(repr(self._rejected).encode())}"
        return self._rows.encoded(token)


class Sink:
    """Writes one topic's events and outcomes."""

    def __init__(self, topic: str, database: ClickHouse) -> None:
        self._topic = topic
        self._database = database

    async def insert(self, rows: InteractionRows) -> None:
        """Insert rows into `interactions`; durable on return. Raises RowsRefused."""
        if len(rows):
            encoded = rows.encoded()
            await retrying("storing events", lambda: self._database.insert(INTERACTIONS, encoded))

    async def store(self, events: Events) -> None:
        """Insert events into `interactions`; durable on return. Raises RowsRefused."""
        rows = InteractionRows(self._topic)
        rows.add(events)
        await self.insert(rows)

    async def first_refused(self, events: Events) -> tuple[Event, RowsRefused] | None:
        """Of events that were refused together, the first that is refused alone; all before it get stored.

        No event behind it is stored: that one may be its duplicate, and has to be judged again without it.
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
            encoded = rows.encoded()
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
