"""Replay of dead letters: put those that are valid now on the topic again."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError

from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Unavailable, reason_of
from runtime.faults.kafka import kafka_fault
from runtime.retry import COMMAND_ATTEMPTS, retrying
from runtime.settings import Settings
from runtime.sizes import MIB
from schemas.letter import Letter, Origin
from schemas.tables import INTERACTIONS, OUTCOMES
from tally.dead_letters.reading import Selection, read_letters
from tally.dead_letters.repair import ReplayRecord, repair

LETTERS_AT_ONCE = 500
"""Maximum replayed letters that are in memory and unacknowledged."""
BYTES_AT_ONCE = 32 * MIB
"""Maximum bytes of their values; a single letter may be larger."""
MAX_NAMED = 100
"""Maximum replayed letters that a replay names."""

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
    named: list[tuple[Origin, str]] = field(default_factory=list)
    """First letters put on the topic, each with its new id."""


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
    async with AsyncExitStack() as opened:
        producer = None if dry_run else await opened.enter_async_context(kafka.producer(settings))
        found = await opened.enter_async_context(aclosing(read_letters(settings, selection)))
        run = LetterReplay(settings, database, producer, patch, as_namespace)
        async for letters in batches_of(found):
            await run.add(letters)
            yield run.done
    yield run.done


async def batches_of(letters: AsyncIterator[Letter]) -> AsyncGenerator[list[Letter], None]:
    """Yield letters in batches, bounded in number and bytes."""
    batch: list[Letter] = []
    size = 0
    async for letter in letters:
        batch.append(letter)
        size += len(letter.value or b"")
        if len(batch) == LETTERS_AT_ONCE or size >= BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class LetterReplay:
    """Replay of letters in batches. Without a producer it is a dry run."""

    def __init__(
        self,
        settings: Settings,
        database: ClickHouse,
        producer: AIOKafkaProducer | None,
        patch: dict[str, Any] | None,
        as_namespace: str | None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._producer = producer
        self._patch = patch
        self._as_namespace = as_namespace
        self.done = ReplayProgress()

    async def add(self, letters: Sequence[Letter]) -> None:
        """Replay a batch of letters. Raises Unavailable; a repeated replay is safe."""
        done = self.done
        done.read += len(letters)
        remaining = await _not_yet_replayed(self._database, letters)
        done.settled += len(letters) - len(remaining)
        batch = []
        for letter in remaining:
            found = repair(letter, self._patch, self._as_namespace)
            if found.record is None:
                done.failing[f"{found.problems[0].reason} {found.problems[0].field}"] += 1
            else:
                batch.append(found.record)
            await asyncio.sleep(0)  # other requests of the same process wait
        if self._producer is not None:
            await _put(self._settings, self._producer, self._database, batch)
            named = [(each.letter.origin, each.interaction_id) for each in batch]
            done.named += named[: MAX_NAMED - len(done.named)]
        done.passing += len(batch)


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
    except TopicAuthorizationFailedError as error:
        raise kafka_fault(error, f"writing to {settings.topic}") from error
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
