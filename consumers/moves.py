"""Moves: a valid event that lies on another partition than its key's is put on that one, and not validated where it is.

Its copy has the event's id, or the one derived from the original record's place if it has none; the original's append
time as event time, if it names none; and the original's place. A crash may write the copy twice: the second one is a
duplicate of the first, by its id.
"""

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import takewhile
from typing import Protocol

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from consumers.batch import Batch, Move, Rejected, ValidatedBatch
from consumers.events import Events
from consumers.letters import nbytes_of
from consumers.record_limits import event_limits
from runtime import kafka
from runtime.errors import Fatal, Unavailable
from runtime.faults.kafka import kafka_fault
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.letter import Origin
from schemas.rejection import Rejection
from schemas.wire import encode_headers, partition_key, record_size, with_id

LARGEST_GROWTH_BYTES = 8 * 1024
"""A copy is larger than its original by less: an id, a key, headers of bounded texts."""
SMALL_BYTES = 64 * 1024
"""No topic refuses a record for that size, unless it is being expanded: then it takes none (`tally topic expand`)."""

log = logging.getLogger("tally.worker")


class Mover(Protocol):
    """Decides which misplaced events are moved, and moves them."""

    async def set_apart(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take those that are to be moved out of the events, and note them as `validated.moves`."""

    async def send(self, moves: Sequence[Move], /) -> list[Rejected]:
        """Put a copy of each on the partition that it belongs on; returns those that Kafka refuses for their size."""


class Moves:
    """Moves all misplaced events of one topic."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._most_bytes = event_limits(settings).record_bytes
        self._stack = stack
        self._client: AIOKafkaProducer | None = None

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator["Moves"]:
        """With a client of its own, that connects when there is something to move."""
        async with AsyncExitStack() as stack:
            yield cls(settings, stack)

    async def set_apart(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Take them out of the events. What an earlier version stored where it lies stays there."""
        misplaced = validated.events.misplaced & ~validated.done
        if misplaced.any():
            validated.moves = moves_of(batch, validated.events[misplaced])
            validated.events, validated.done = validated.events[~misplaced], validated.done[~misplaced]

    async def send(self, moves: Sequence[Move]) -> list[Rejected]:
        """Put the copies on the topic; acknowledged by Kafka on return."""
        by_home: dict[int, list[Move]] = defaultdict(list)
        for move in moves:
            by_home[move.home].append(move)
        sending = (self._send_to(home, some) for home, some in by_home.items())
        # Whatever happens to one, nothing continues behind the caller's back.
        refused: list[Rejected] = []
        for found in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found
            refused += found
        return refused

    async def _send_to(self, home: int, moves: Sequence[Move]) -> list[Rejected]:
        """Send batch after batch; one that is refused for its size goes in halves, until single records are refused."""
        refused: list[Rejected] = []
        begin, most, refused_bytes = 0, len(moves), sys.maxsize
        while begin < len(moves):
            nbytes = len(moves[begin].key) + len(moves[begin].record.value or b"")
            why = "the topic takes no records of its size"
            if self._is_too_large(moves[begin]):
                why = "with its id and its headers it would be larger than any event"
            elif nbytes < refused_bytes:
                batch = list(takewhile(lambda move: not self._is_too_large(move), moves[begin : begin + most]))
                count, why = await retrying("moving events", partial(self._put, home, batch))
                if not why:
                    begin, most = begin + count, 2 * most
                    continue
                if count > 1:
                    most = count // 2
                    continue
                if nbytes <= SMALL_BYTES:
                    refused_bytes = nbytes
            refused.append(not_moved(moves[begin], why))
            begin += 1
        return refused

    def _is_too_large(self, move: Move) -> bool:
        """Whether workers would reject the copy of a valid event for its size."""
        if nbytes_of(move.record) + LARGEST_GROWTH_BYTES <= self._most_bytes:
            return False
        return record_size(*copy_of(self._settings.topic, move)) > self._most_bytes

    async def _put(self, home: int, moves: Sequence[Move]) -> tuple[int, str]:
        """Put a batch of the first of these on a partition; returns how many, and why they are refused if they are."""
        topic = self._settings.topic
        try:
            client = await self._producer()
            batch, count = client.create_batch(), 0
            for move in moves:
                key, value, headers = copy_of(topic, move)
                if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
                    break
                count += 1
            batch.close()
            async with asyncio.timeout(self._settings.delivery_timeout_ms / 1000):
                written = await (await client.send_batch(batch, topic, partition=home))
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            return count, str(error)
        except TopicAuthorizationFailedError as error:
            raise Fatal(f"moving events: {error!r}; grant this client write access to topic {topic}") from error
        except KafkaError as error:
            raise kafka_fault(error, f"moving events to {topic}/{home}") from error
        except (TimeoutError, AssertionError, TypeError) as error:  # or the client does not know the partition just now
            raise Unavailable(f"moving events: Kafka (TALLY_KAFKA) does not take them on {topic}/{home}") from error
        for at, move in enumerate(moves[:count]):
            move.copy_offset = written.offset + at
        return count, ""

    async def _producer(self) -> AIOKafkaProducer:
        if self._client is None:
            self._client = await self._stack.enter_async_context(kafka.producer(self._settings, copies=True))
            log.warning("a producer puts events on other partitions than their keys'; they are moved (docs/wire.md)")
        return self._client


def moves_of(batch: Batch, misplaced: Events) -> list[Move]:
    """The moves of misplaced events of a batch."""
    moves = []
    for part in batch.slices:
        first, end = misplaced.lines_of(part.partition)
        lines = np.searchsorted(part.records.offsets, misplaced.offsets[first:end]).tolist()
        for at, record in zip(range(first, end), map(part.records.at, lines), strict=True):
            event, head = misplaced.at(at), misplaced.heads[misplaced.head_of[at]]
            key = partition_key(event.namespace, event, event.idempotency_key)
            has_id, home = bool(misplaced.columns.has_id[at]), int(misplaced.homes[at])
            moves.append(
                Move(
                    part.partition,
                    record,
                    head,
                    event.interaction_id,
                    has_id,
                    key,
                    home,
                    event.user_id,
                    event.execution_id,
                )
            )
    return moves


def copy_of(topic: str, move: Move) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """The record that puts an event on the partition that it belongs on: its key, value and headers."""
    record, head = move.record, move.head
    value = record.value or b""
    headers = encode_headers(
        head.namespace,
        derived_id=True,
        idempotency_key=head.idempotency_key,
        origin_ms=record.timestamp if head.origin_ms is None else head.origin_ms,
        deduplicate=head.deduplicate,
        traceparent=head.traceparent,
        moved_from=str(Origin(topic, move.partition, move.offset)),
    )
    return move.key, value if move.has_id else with_id(value, move.interaction_id), headers


def not_moved(move: Move, why: str) -> Rejected:
    """The rejection of a misplaced event that cannot be moved."""
    rejection = Rejection("not_moved", "", f"by its key it belongs on partition {move.home}, where it cannot go: {why}")
    namespace, interaction_id = move.head.namespace, move.interaction_id
    return Rejected(move.partition, move.record, namespace, interaction_id, rejection, move.user_id, move.execution_id)
