"""Living with dead letters: find them, see what would pass now, and put a selection on the topic again."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable
from runtime.faults import kafka_fault
from runtime.kafka import Record
from runtime.retry import FEW, retrying
from runtime.settings import Settings
from schemas.event_time import to_epoch_ms
from schemas.fast_path import validate
from schemas.identity import derive_replay_id
from schemas.letter import Letter, Origin, read_letter
from schemas.merge_patch import merge_patch
from schemas.rejection import Rejection
from schemas.tables import OUTCOMES
from schemas.wire import (
    IDEMPOTENCY_HEADER,
    NAMESPACE_HEADER,
    check_idempotency_key,
    check_namespace,
    encode_headers,
    partition_key,
)

LETTERS_AT_ONCE = 500
"""Replayed letters that are in memory and unacknowledged, at most."""

_POLL_MS = 500

# A row inserted again replaces the one with the same key: verdict and place stay, the new id is added.
_MARK = f"""
INSERT INTO {OUTCOMES} (namespace, interaction_id, _topic, _partition, _offset, verdict, reason, field, message,
    replayed_as, user_id, execution_id, timestamp)
SELECT namespace, interaction_id, _topic, _partition, _offset, verdict, reason, field, message,
    {{ids:Array(String)}}[indexOf({{offsets:Array(UInt64)}}, _offset)], user_id, execution_id, timestamp
FROM {OUTCOMES} FINAL
WHERE _topic = {{topic:String}} AND _partition = {{partition:UInt32}} AND _offset IN {{offsets:Array(UInt64)}}
    AND verdict = 'rejected' AND replayed_as = ''
"""


@dataclass(frozen=True)
class Selection:
    """Which letters are meant; what is None or empty selects all."""

    reason: str | None = None
    field: str | None = None
    namespace: str | None = None
    since: datetime | None = None
    """By when the rejected record was appended; included."""
    until: datetime | None = None
    """The same; not included."""
    origins: frozenset[Origin] = frozenset()

    def matches(self, letter: Letter) -> bool:
        """Whether this letter is meant."""
        return (
            self.reason in (None, letter.reason)
            and self.field in (None, letter.field)
            and self.namespace in (None, letter.namespace)
            and (self.since is None or letter.append_ms >= to_epoch_ms(self.since))
            and (self.until is None or letter.append_ms < to_epoch_ms(self.until))
            and (not self.origins or letter.origin in self.origins)
        )


class Ready(NamedTuple):
    """A letter that would be accepted now, and the record to put on the topic for it."""

    letter: Letter
    interaction_id: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass
class Replayed:
    """What came of a replay so far."""

    read: int = 0
    passing: int = 0
    """Put on the topic, or, in a dry run, fit for it."""
    failing: Counter[str] = field(default_factory=Counter)
    """Rejected still, by `reason field: message`."""


async def read_letters(settings: Settings, selection: Selection) -> AsyncIterator[Letter]:
    """The selected letters that are on the dead-letter topic now, each once, partition by partition.

    Raises Unavailable when Kafka stops answering.
    """
    seen: set[tuple[int, int]] = set()
    async for record in _records(settings, selection.since):
        try:
            letter = read_letter(record.key, record.value, record.headers)
        except ValueError:
            continue  # somebody else's record
        place = letter.origin.partition, letter.origin.offset
        if letter.origin.topic == settings.topic and place not in seen and selection.matches(letter):
            seen.add(place)
            yield letter


async def _records(settings: Settings, since: datetime | None) -> AsyncIterator[Record]:
    topic = settings.letters_topic
    async with kafka.admin(settings) as admin:
        numbers = await kafka.partition_numbers(admin, topic)
    async with kafka.offset_reader(settings) as consumer:
        try:
            for number in numbers:
                async for record in _partition(consumer, TopicPartition(topic, number), since):
                    yield record
        except KafkaError as error:
            raise kafka_fault(error, f"reading {topic}") from error


async def _partition(
    consumer: AIOKafkaConsumer, place: TopicPartition, since: datetime | None
) -> AsyncIterator[Record]:
    consumer.assign([place])
    end = (await consumer.end_offsets([place]))[place]
    begin = (await consumer.beginning_offsets([place]))[place]
    if since is not None:  # a letter is never older than its record
        found = (await consumer.offsets_for_times({place: to_epoch_ms(since)}))[place]
        begin = end if found is None else max(begin, found.offset)
    consumer.seek(place, begin)
    while begin < end:
        for record in (await consumer.getmany(place, timeout_ms=_POLL_MS)).get(place, []):
            if record.offset < end:
                yield record
        begin = await consumer.position(place)


def make_ready(
    settings: Settings, letter: Letter, patch: dict[str, Any] | None, as_namespace: str | None
) -> Ready | Rejection:
    """The record that a letter becomes, with a patch merged into its value; or why it still is no event.

    The origin's time goes along as event time, and the new id is derived from the origin: putting it on the topic
    twice stores it once.
    """
    origin, headers = letter.origin, dict(letter.headers)
    namespace = as_namespace or _text(headers, NAMESPACE_HEADER, settings.namespace)
    try:
        check_namespace(namespace)
        token = _text(headers, IDEMPOTENCY_HEADER, "")
        if token:
            check_idempotency_key(token)
    except ValueError as error:
        return Rejection("bad_header", "", f"{error}; --as-namespace gives it one")
    new_id = derive_replay_id(origin.topic, origin.partition, origin.offset, letter.append_ms)
    value = letter.value
    with suppress(ValueError):  # what is no object, the judge words better
        value = merge_patch(value or b"", {**(patch or {}), "interaction_id": new_id})
    judged = validate(value)
    if isinstance(judged, Rejection):
        return judged
    token = "" if judged.event.execution_id else token
    return Ready(
        letter,
        new_id,
        partition_key(namespace, judged.event, token),
        value or b"",
        encode_headers(namespace, derived_id=True, idempotency_key=token, origin_ms=letter.append_ms),
    )


def _text(headers: dict[str, bytes | None], name: str, default: str) -> str:
    """A header's text; what cannot be read is as good as empty."""
    if name not in headers:
        return default
    try:
        return (headers[name] or b"").decode()
    except UnicodeDecodeError:
        return ""


async def replay(
    settings: Settings,
    database: ClickHouse | None,
    selection: Selection,
    *,
    patch: dict[str, Any] | None = None,
    as_namespace: str | None = None,
) -> AsyncIterator[Replayed]:
    """Put the selected letters that are valid now on the topic again, batch by batch, telling how far it is.

    Without a database it is a dry run: nothing is put anywhere. Raises Unavailable when Kafka or ClickHouse stop
    answering; doing it all again is safe.
    """
    done = Replayed()
    async with AsyncExitStack() as opened:
        producer = None if database is None else await opened.enter_async_context(kafka.producer(settings))
        batch: list[Ready] = []
        async for letter in read_letters(settings, selection):
            done.read += 1
            ready = make_ready(settings, letter, patch, as_namespace)
            if isinstance(ready, Rejection):
                done.failing[f"{ready.reason} {ready.field}: {ready.message}"] += 1
                continue
            done.passing += 1
            batch.append(ready)
            if len(batch) == LETTERS_AT_ONCE:
                if producer is not None and database is not None:
                    await _put(settings, producer, database, batch)
                batch = []
                yield done
        if producer is not None and database is not None:
            await _put(settings, producer, database, batch)
        yield done


async def _put(settings: Settings, producer: AIOKafkaProducer, database: ClickHouse, batch: Sequence[Ready]) -> None:
    """Put records on the topic, and once Kafka has them say in their outcomes under which id."""
    try:
        async with asyncio.timeout(settings.delivery_timeout_ms / 1000):
            sent = [
                await producer.send(settings.topic, each.value, key=each.key, headers=each.headers) for each in batch
            ]
            await asyncio.gather(*sent)
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(f"Kafka (TALLY_KAFKA) did not take all of a batch: {error!r}; replay it again") from error
    by_partition: dict[int, list[Ready]] = defaultdict(list)
    for each in batch:
        by_partition[each.letter.origin.partition].append(each)
    for partition, group in by_partition.items():
        where = {
            "topic": settings.topic,
            "partition": partition,
            "offsets": [each.letter.origin.offset for each in group],
            "ids": [each.interaction_id for each in group],
        }
        await retrying("marking what was replayed", partial(database.command, _MARK, where), tries=FEW)
