"""The sink: inserts rows once, however often the insert has to be tried."""

import hashlib
from collections.abc import Sequence

from consumers.batch import Duplicate, Event, Rejected
from consumers.columns import interaction_rows, outcome_rows
from runtime.clickhouse import ClickHouse
from runtime.faults import RowsRefused
from runtime.retry import retrying
from schemas.tables import INTERACTIONS, OUTCOMES


class Sink:
    """Writes one topic's events and outcomes."""

    def __init__(self, topic: str, database: ClickHouse) -> None:
        self._topic = topic
        self._database = database

    async def store(self, events: Sequence[Event]) -> None:
        """Insert events into `interactions`; durable on return. Raises RowsRefused."""
        if events:
            rows = interaction_rows(self._topic, events)
            token = insert_token(self._topic, events)
            await retrying("storing events", lambda: self._database.insert(INTERACTIONS, rows, token))

    async def first_refused(self, events: Sequence[Event]) -> tuple[Event, RowsRefused] | None:
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
                    return events[begin], refused
                end = begin + (end - begin) // 2
            else:
                begin, end = end, min(len(events), end + max(1, end - begin))
        return None

    async def record(self, duplicates: Sequence[Duplicate], rejected: Sequence[Rejected]) -> None:
        """Insert what was not stored, and why, into `outcomes`; durable on return."""
        events: list[Event | Rejected] = [*(duplicate.event for duplicate in duplicates), *rejected]
        if events:
            rows = outcome_rows(self._topic, duplicates, rejected)
            token = insert_token(self._topic, events)
            await retrying("recording outcomes", lambda: self._database.insert(OUTCOMES, rows, token))


def insert_token(topic: str, events: Sequence[Event] | Sequence[Event | Rejected]) -> str:
    """Names an insert by exactly what is in it.

    A batch cut differently after a crash is another insert and gets another token: one named by its first
    offset alone would be taken for the earlier, shorter insert, and its further rows would be dropped unseen.
    """
    hashed = hashlib.blake2b(topic.encode(), digest_size=16)
    for event in events:
        hashed.update(b"%d %d %s\n" % (event.partition, event.offset, event.interaction_id.encode()))
    return hashed.hexdigest()
