"""The sink: inserts rows once, however often the insert has to be tried."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from consumers.batch import Duplicates, Rejected
from consumers.columns import interaction_rows, outcome_rows
from consumers.events import Event, Events
from runtime.clickhouse import ClickHouse, Encoded, encode
from runtime.faults import RowsRefused
from runtime.owners import raw_ids_of
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES


class InteractionRows:
    """Rows of `interactions` for one insert, encoded as they are added: so they take a quarter of their memory."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._encoded = pa.BufferOutputStream()
        self._writer: pa.RecordBatchStreamWriter | None = None
        self._columns: list[str] = []
        self._added: list[Events] = []

    def __len__(self) -> int:
        return sum(map(len, self._added))

    def add(self, events: Events) -> None:
        """Put more behind those that are there."""
        if len(events):
            rows = interaction_rows(self._topic, events)
            if self._writer is None:
                self._columns = rows.schema.names
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writer = pa.ipc.new_stream(self._encoded, rows.schema, options=options)
            self._writer.write_table(rows)
            self._added.append(events)

    def encoded(self) -> Encoded:
        """All of them. Nothing may be added any more."""
        if self._writer is not None:
            self._writer.close()
        token = insert_token(self._topic, self._added)
        return Encoded(self._columns, self._encoded.getvalue().to_pybytes(), token)


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

    async def record(self, duplicates: Sequence[Duplicates], rejected: Sequence[Rejected]) -> None:
        """Insert what was not stored, and why, into `outcomes`; durable on return."""
        rows = outcome_rows(self._topic, duplicates, rejected)
        if rows.num_rows:
            places = [(item.partition, item.offset, item.interaction_id) for item in rejected]
            token = f"{insert_token(self._topic, [each.events for each in duplicates])} {_hash(repr(places).encode())}"
            encoded = encode(rows, token)
            await retrying("recording outcomes", lambda: self._database.insert(OUTCOMES, encoded))


def insert_token(topic: str, inserted: Sequence[Events]) -> str:
    """Names an insert by exactly what is in it: the place and the id of each row, in their order.

    A batch cut differently after a crash is another insert and gets another token: one named by its first
    offset alone would be taken for the earlier, shorter insert, and its further rows would be dropped unseen.
    """
    parts = [topic.encode()]
    for events in inserted:
        parts += [events.partitions.tobytes(), events.offsets.tobytes(), raw_ids_of(events.rows).tobytes()]
    return _hash(*parts)


def _hash(*parts: bytes) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(b"%d " % len(part))
        hashed.update(part)
    return hashed.hexdigest()
