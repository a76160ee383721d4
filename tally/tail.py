"""Tail: events as they are appended, each with its outcome."""

import json
import time
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from pydantic import BaseModel

from consumers.records import PlainRecord, Records, event_limits
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.faults.kafka import kafka_fault
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms
from schemas.tables import INTERACTIONS, OUTCOMES
from schemas.validator import validate
from schemas.wire import NAMESPACE_HEADER, ValidEvent

LOOK_EVERY_MS = 200
MOST_PENDING = 2_000
"""Upper bound of events that wait for their outcome; others are counted and not shown."""
WAIT_S = 30.0
"""Wait after which an event is shown without its outcome."""

_SINCE = "_topic = {topic:String} AND timestamp >= fromUnixTimestamp64Milli({since_ms:Int64}, 'UTC')"
_VERDICTS = (
    "SELECT _partition, _offset, interaction_id, if(max(is_deleted), 'deleted', 'stored'), '', '' "
    f"FROM {INTERACTIONS} WHERE {_SINCE} AND _offset IN {{offsets:Array(UInt64)}} "
    "GROUP BY _partition, _offset, interaction_id "
    "UNION ALL SELECT _partition, _offset, interaction_id, toString(verdict), duplicate_of, reason "
    f"FROM {OUTCOMES} WHERE {_SINCE} AND _offset IN {{offsets:Array(UInt64)}}"
)


class TailEvent(BaseModel):
    """One event with its outcome. `verdict` is null when the outcome took longer than WAIT_S."""

    timestamp: str
    partition: int
    offset: int
    namespace: str
    interaction_id: str | None = None
    verdict: str | None = None
    duplicate_of: str | None = None
    reason: str | None = None
    interaction_type: list[str] = []
    query: str | None = None
    """`query_snapshot.text`, if that is a text."""
    position: int | None = None
    retriever_id: str | None = None
    feature_id: str | None = None
    user_id: str | None = None
    execution_id: str | None = None


class TailFilter(NamedTuple):
    """Filter of the events to show: every field that is given must match."""

    namespace: str | None = None
    interaction_type: str | None = None
    user_id: str | None = None
    execution_id: str | None = None
    verdict: str | None = None

    def may_match(self, seen: TailEvent) -> bool:
        """Return whether an event matches, its verdict aside."""
        return (
            self.namespace in (None, seen.namespace)
            and (self.interaction_type is None or self.interaction_type in seen.interaction_type)
            and self.user_id in (None, seen.user_id)
            and self.execution_id in (None, seen.execution_id)
        )


class Skipped(NamedTuple):
    """Events that came faster than their outcomes could be looked up, and are not shown."""

    events: int


async def tail(
    settings: Settings, database: ClickHouse, wanted: TailFilter
) -> AsyncGenerator[TailEvent | Skipped, None]:
    """Yield events appended from now on, without end. Raises Unavailable when a store does not answer."""
    async with kafka.admin(settings) as admin, kafka.record_reader(settings) as log:
        numbers = await kafka.partition_numbers(admin, settings.topic)
        places = [TopicPartition(settings.topic, number) for number in numbers]
        log.assign(places)
        await log.seek_to_end(*places)
        pending, limits = _Pending(settings, database), event_limits(settings)
        while True:
            try:
                found: Any = await log.getmany(timeout_ms=LOOK_EVERY_MS)
            except KafkaError as error:
                raise kafka_fault(error, f"reading {settings.topic}") from error
            unread, skipped = {place.partition: items for place, items in found.items()}, 0
            while unread:
                records, unread = Records.read(unread, limits)
                for line, partition in enumerate(records.partitions.tolist()):
                    record = records.at(line)
                    if records.flaw_at(line):
                        record = record._replace(value=None)
                    seen = _seen(partition, record, settings.namespace)
                    skipped += wanted.may_match(seen) and not pending.add(record.timestamp, seen)
            if skipped:
                yield Skipped(skipped)
            for seen in await pending.settled():
                if wanted.verdict in (None, seen.verdict):
                    yield seen


class _Waiting(NamedTuple):
    since: float
    append_ms: int
    seen: TailEvent


class _Pending:
    """Events that were read and have no outcome yet."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._topic = settings.topic
        self._database = database
        self._events: dict[tuple[int, int], _Waiting] = {}

    def add(self, append_ms: int, seen: TailEvent) -> bool:
        """Add an event to wait for; return False when there are too many."""
        if len(self._events) >= MOST_PENDING:
            return False
        self._events[seen.partition, seen.offset] = _Waiting(time.monotonic(), append_ms, seen)
        return True

    async def settled(self) -> list[TailEvent]:
        """Return the events whose wait is over, in the order of their arrival."""
        if not self._events:
            return []
        where = {
            "topic": self._topic,
            "since_ms": min(each.append_ms for each in self._events.values()),
            "offsets": [offset for _, offset in self._events],
        }
        verdicts = {(row[0], row[1]): row[2:] for row in await self._database.rows(_VERDICTS, where)}
        now, done = time.monotonic(), []
        for place, waiting in list(self._events.items()):
            if place in verdicts:
                interaction_id, name, duplicate_of, reason = verdicts[place]
                found = {"interaction_id": interaction_id, "verdict": name}
                found |= {"duplicate_of": duplicate_of or None, "reason": reason or None}
                done.append(waiting.seen.model_copy(update=found))
            elif now - waiting.since >= WAIT_S:
                done.append(waiting.seen)
            else:
                continue
            del self._events[place]
        return done


def _seen(partition: int, record: PlainRecord, default_namespace: str) -> TailEvent:
    namespace = dict(record.headers).get(NAMESPACE_HEADER)
    seen = TailEvent(
        timestamp=iso_ms(from_epoch_ms(record.timestamp)),
        partition=partition,
        offset=record.offset,
        namespace=default_namespace if namespace is None else namespace.decode(errors="replace"),
    )
    validated = validate(record.value)
    if not isinstance(validated, ValidEvent):
        return seen
    event = validated.event
    shown = ("interaction_id", "interaction_type", "position", "retriever_id", "feature_id", "user_id", "execution_id")
    fields = {name: getattr(event, name) for name in (*shown, "query_snapshot")}
    return seen.model_copy(update={**fields, "query": _query_text(fields.pop("query_snapshot"))})


def _query_text(snapshot: bytes) -> str | None:
    """Return the `text` of a query_snapshot; None when it has none."""
    found = json.loads(bytes(snapshot))
    text = found.get("text") if isinstance(found, dict) else None
    return text if isinstance(text, str) else None
