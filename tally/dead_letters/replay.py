"""Replay of dead letters: put those that are valid now on the topic again."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable, reason_of
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from schemas.identity import derive_replay_id
from schemas.letter import Letter
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
from tally.dead_letters.reading import Selection, read_letters

LETTERS_AT_ONCE = 500
"""Maximum replayed letters that are in memory and unacknowledged."""

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


class ReplayRecord(NamedTuple):
    """Dead letter that is valid now, with the record that replays it."""

    letter: Letter
    interaction_id: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


@dataclass
class ReplayProgress:
    """Progress of a replay of dead letters."""

    read: int = 0
    passing: int = 0
    """Letters put on the topic or, in a dry run, valid."""
    failing: Counter[str] = field(default_factory=Counter)
    """Letters that are still rejected, by `reason field`."""
    settled: int = 0
    """Letters skipped: stored by an earlier replay, or no longer rejected since a replay of the log."""


def replay_record(letter: Letter, patch: dict[str, Any] | None, as_namespace: str | None) -> ReplayRecord | Rejection:
    """Build the record that replays a letter, with a patch merged into its value; or return why it is still rejected.

    The origin's time becomes the event time. The id is derived from the origin: replaying twice stores once.
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
    if given_ms is None or given_ms > letter.append_ms:  # the letter was rejected for this header
        given_ms = None
    origin_ms = letter.append_ms if given_ms is None else given_ms
    # A replayed letter that was rejected again, or a valid event that was not moved: it keeps its id.
    stays = letter.reason == "not_moved" or (DERIVED_ID_HEADER in headers and given_ms is not None)
    new_id = letter.interaction_id if stays else derive_replay_id(*origin, letter.append_ms)
    value = letter.value
    with suppress(ValueError):  # the validator has the better message for a value that is no object
        value = merge_patch(value or b"", {**(patch or {}), "interaction_id": new_id})
    validated = validate(value)
    if isinstance(validated, Rejection):
        return validated
    token = "" if validated.event.execution_id else token
    return ReplayRecord(
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
    """Decode a header's text; one that is not UTF-8 counts as empty."""
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
) -> AsyncGenerator[ReplayProgress, None]:
    """Put the selected letters that are valid now on the topic again, and yield the progress after each batch.

    A dry run writes nothing. Raises Unavailable when Kafka or ClickHouse stop answering; a repeated call is safe.
    """
    done = ReplayProgress()
    async with AsyncExitStack() as opened:
        producer = None if dry_run else await opened.enter_async_context(kafka.producer(settings))
        found = await opened.enter_async_context(aclosing(read_letters(settings, selection)))
        async for letters in _batches(found):
            done.read += len(letters)
            remaining = await _not_yet_replayed(database, letters)
            done.settled += len(letters) - len(remaining)
            batch = []
            for letter in remaining:
                ready = replay_record(letter, patch, as_namespace)
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


async def _not_yet_replayed(database: ClickHouse, letters: Sequence[Letter]) -> list[Letter]:
    """Return the letters whose record is still rejected, and whose replay is not stored in any namespace."""
    where: dict[str, Any] = {
        "topic": letters[0].origin.topic,
        "partitions": [letter.origin.partition for letter in letters],
        "offsets": [letter.origin.offset for letter in letters],
    }
    rejected = await retrying(
        "reading rejected outcomes", partial(database.rows, _REJECTED, where), tries=COMMAND_ATTEMPTS
    )
    marked = {(partition, offset): replayed_as for partition, offset, replayed_as in rejected}
    ids = {"ids": [replayed_as for replayed_as in marked.values() if replayed_as]}
    found = (
        await retrying("reading stored replays", partial(database.rows, _STORED, ids), tries=COMMAND_ATTEMPTS)
        if ids["ids"]
        else []
    )
    stored = {interaction_id for (interaction_id,) in found}
    return [
        letter
        for letter in letters
        if (place := (letter.origin.partition, letter.origin.offset)) in marked and marked[place] not in stored
    ]


async def _put(
    settings: Settings, producer: AIOKafkaProducer, database: ClickHouse, batch: Sequence[ReplayRecord]
) -> None:
    """Put records on the topic and, once Kafka acknowledged them, note their new ids in the outcomes."""
    try:
        async with asyncio.timeout(settings.delivery_timeout_ms / 1000):
            sent = [
                await producer.send(settings.topic, each.value, key=each.key, headers=each.headers) for each in batch
            ]
            await asyncio.gather(*sent)
    except (KafkaError, TimeoutError) as error:
        raise Unavailable(
            f"Kafka (TALLY_KAFKA) did not acknowledge a batch completely: {reason_of(error)}; run the replay again"
        ) from error
    by_partition: dict[int, list[ReplayRecord]] = defaultdict(list)
    for each in batch:
        by_partition[each.letter.origin.partition].append(each)
    for partition, group in by_partition.items():
        where = {
            "topic": settings.topic,
            "partition": partition,
            "offsets": [each.letter.origin.offset for each in group],
            "ids": [each.interaction_id for each in group],
        }
        await retrying("marking replayed letters", partial(database.command, _MARK, where), tries=COMMAND_ATTEMPTS)
