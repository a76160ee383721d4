"""Living with dead letters: find them, see what would pass now, and put a selection on the topic again."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from consumers.record_limits import letter_limits
from consumers.record_ranges import read_range
from kernels.boundary import ReadLimits
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable, reason_of
from runtime.faults.kafka import kafka_fault
from runtime.kafka import Record
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from schemas.event_time import to_epoch_ms
from schemas.identity import derive_replay_id
from schemas.letter import Letter, Origin, read_letter
from schemas.merge_patch import merge_patch
from schemas.rejection import Rejection
from schemas.tables import INTERACTIONS, OUTCOMES
from schemas.validator import validate
from schemas.wire import (
    DEDUPLICATE_HEADER,
    DERIVED_ID_HEADER,
    IDEMPOTENCY_HEADER,
    NAMESPACE_HEADER,
    ORIGIN_HEADER,
    check_idempotency_key,
    check_namespace,
    decode_number,
    encode_headers,
    partition_key,
)

LETTERS_AT_ONCE = 500
"""Replayed letters that are in memory and unacknowledged, at most."""

_PATIENCE_MS = 10_000

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


_REJECTED = f"""
SELECT _partition, _offset, replayed_as FROM {OUTCOMES} FINAL
WHERE _topic = {{topic:String}} AND verdict = 'rejected'
    AND (_partition, _offset) IN arrayZip({{partitions:Array(UInt32)}}, {{offsets:Array(UInt64)}})
"""
_STORED = f"SELECT interaction_id FROM {INTERACTIONS} WHERE interaction_id IN {{ids:Array(String)}}"


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
    """Progress of a replay of dead letters."""

    read: int = 0
    passing: int = 0
    """Put on the topic, or, in a dry run, fit for it."""
    failing: Counter[str] = field(default_factory=Counter)
    """Rejected still, by `reason field`."""
    settled: int = 0
    """Left alone: stored already by an earlier replay, or, since the log was validated again, rejected no more."""


async def read_letters(settings: Settings, selection: Selection) -> AsyncGenerator[Letter, None]:
    """The selected letters that are on the dead-letter topic now, each once, partition by partition.

    Raises Unavailable when Kafka stops answering.
    """
    seen: set[tuple[int, int]] = set()
    async with aclosing(_records(settings, selection.since)) as records:
        async for record in records:
            try:
                letter = read_letter(record.key, record.value, record.headers)
            except ValueError:
                continue  # somebody else's record
            place = letter.origin.partition, letter.origin.offset
            if letter.origin.topic == settings.topic and place not in seen and selection.matches(letter):
                seen.add(place)
                yield letter


async def _records(settings: Settings, since: datetime | None) -> AsyncGenerator[Record, None]:
    topic, limits = settings.dead_letter_topic_name, letter_limits(settings)
    async with kafka.admin(settings) as admin:
        numbers = await kafka.partition_numbers(admin, topic)
    async with kafka.record_reader(settings) as consumer:
        try:
            for number in numbers:
                async with aclosing(_partition(consumer, TopicPartition(topic, number), since, limits)) as records:
                    async for record in records:
                        yield record
        except KafkaError as error:
            raise kafka_fault(error, f"reading {topic}") from error


async def _partition(
    consumer: AIOKafkaConsumer, place: TopicPartition, since: datetime | None, limits: ReadLimits
) -> AsyncGenerator[Record, None]:
    consumer.assign([place])
    end = (await consumer.end_offsets([place]))[place]
    begin = (await consumer.beginning_offsets([place]))[place]
    if since is not None:  # a letter is never older than its record
        found = (await consumer.offsets_for_times({place: to_epoch_ms(since)}))[place]
        begin = end if found is None else max(begin, found.offset)
    async with aclosing(read_range(consumer, place, begin, end, limits, patience_ms=_PATIENCE_MS)) as parts:
        async for records in parts:
            for record in map(records.at, range(len(records))):
                yield record


def make_ready(letter: Letter, patch: dict[str, Any] | None, as_namespace: str | None) -> Ready | Rejection:
    """The record that a letter becomes, with a patch merged into its value; or why it still is no event.

    The origin's time goes along as event time, and the new id is derived from the origin: putting it on the topic
    twice stores it once.
    """
    origin, headers = letter.origin, dict(letter.headers)
    namespace = as_namespace or _text(headers, NAMESPACE_HEADER, letter.namespace)
    try:
        check_namespace(namespace)
        token = _text(headers, IDEMPOTENCY_HEADER, "")
        if token:
            check_idempotency_key(token)
    except ValueError as error:
        return Rejection("bad_header", "", f"{error}; a namespace can be given with --as-namespace")
    given_ms = decode_number(headers.get(ORIGIN_HEADER))
    if given_ms is None or given_ms > letter.append_ms:  # such a header is what the letter was rejected for
        given_ms = None
    origin_ms = letter.append_ms if given_ms is None else given_ms
    # Rejected once more, or valid and only not moved: it stays the event it is.
    stays = letter.reason == "not_moved" or (DERIVED_ID_HEADER in headers and given_ms is not None)
    new_id = letter.interaction_id if stays else derive_replay_id(*origin, letter.append_ms)
    value = letter.value
    with suppress(ValueError):  # what is no object, the validator words better
        value = merge_patch(value or b"", {**(patch or {}), "interaction_id": new_id})
    validated = validate(value)
    if isinstance(validated, Rejection):
        return validated
    token = "" if validated.event.execution_id else token
    return Ready(
        letter,
        new_id,
        partition_key(namespace, validated.event, token),
        value or b"",
        encode_headers(
            namespace,
            derived_id=True,
            idempotency_key=token,
            origin_ms=origin_ms,
            deduplicate=headers.get(DEDUPLICATE_HEADER) != b"0",
        ),
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
    database: ClickHouse,
    selection: Selection,
    *,
    patch: dict[str, Any] | None = None,
    as_namespace: str | None = None,
    dry_run: bool = False,
) -> AsyncGenerator[Replayed, None]:
    """Put the selected letters that are valid now on the topic again, batch by batch, telling how far it is.

    A dry run puts nothing anywhere. Raises Unavailable when Kafka or ClickHouse stop answering; doing it all again
    is safe.
    """
    done = Replayed()
    async with AsyncExitStack() as opened:
        producer = None if dry_run else await opened.enter_async_context(kafka.producer(settings))
        found = await opened.enter_async_context(aclosing(read_letters(settings, selection)))
        async for letters in _batches(found):
            done.read += len(letters)
            open_letters = await _still_open(database, letters)
            done.settled += len(letters) - len(open_letters)
            batch = []
            for letter in open_letters:
                ready = make_ready(letter, patch, as_namespace)
                if isinstance(ready, Rejection):
                    done.failing[f"{ready.reason} {ready.field}"] += 1
                else:
                    batch.append(ready)
            if producer is not None:
                await _put(settings, producer, database, batch)
            done.passing += len(batch)
            yield done
    yield done


async def _batches(letters: AsyncIterator[Letter]) -> AsyncIterator[list[Letter]]:
    batch = []
    async for letter in letters:
        batch.append(letter)
        if len(batch) == LETTERS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


async def _still_open(database: ClickHouse, letters: Sequence[Letter]) -> list[Letter]:
    """Letters whose record is still rejected, and was not replayed and stored, in any namespace."""
    where: dict[str, Any] = {
        "topic": letters[0].origin.topic,
        "partitions": [letter.origin.partition for letter in letters],
        "offsets": [letter.origin.offset for letter in letters],
    }
    rejected = await retrying(
        "asking what is rejected", partial(database.rows, _REJECTED, where), tries=COMMAND_ATTEMPTS
    )
    marked = {(partition, offset): replayed_as for partition, offset, replayed_as in rejected}
    ids = {"ids": [replayed_as for replayed_as in marked.values() if replayed_as]}
    found = (
        await retrying("asking what is stored", partial(database.rows, _STORED, ids), tries=COMMAND_ATTEMPTS)
        if ids["ids"]
        else []
    )
    stored = {interaction_id for (interaction_id,) in found}
    return [
        letter
        for letter in letters
        if (place := (letter.origin.partition, letter.origin.offset)) in marked and marked[place] not in stored
    ]


async def _put(settings: Settings, producer: AIOKafkaProducer, database: ClickHouse, batch: Sequence[Ready]) -> None:
    """Put records on the topic, and once Kafka has them say in their outcomes under which id."""
    try:
        async with asyncio.timeout(settings.delivery_timeout_ms / 1000):
            sent = [
                await producer.send(settings.topic, each.value, key=each.key, headers=each.headers) for each in batch
            ]
            await asyncio.gather(*sent)
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(
            f"Kafka (TALLY_KAFKA) did not take all of a batch: {reason_of(error)}; replay it again"
        ) from error
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
        await retrying("marking what was replayed", partial(database.command, _MARK, where), tries=COMMAND_ATTEMPTS)
