"""Moves: a valid event on another partition than its key's is copied to that one, and not decided about where it is.

The copy has the event's id, or the id derived from the original record's place. It has the original's place, and its
append time as event time if the event has none. A crash may write the copy twice: the second one is a duplicate of the
first, by its id.

A replay writes nothing to the topic: the copies are in the log already. Events that the live workers moved count as
moved. A misplaced event with another outcome has no copy: it is decided about where it is.
"""

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError, TopicAuthorizationFailedError

from consumers.batch import Batch, Move, RejectedRecord, ValidatedBatch
from consumers.dead_letters import nbytes_of
from consumers.events import Events
from consumers.records import event_limits
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.errors import Fatal, TallyError, Unavailable
from runtime.faults.kafka import kafka_fault
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.letter import Origin
from schemas.rejection import Rejection
from schemas.tables import INTERACTIONS, OUTCOMES
from schemas.wire import encode_headers, partition_key, record_size, with_id

MAX_GROWTH_BYTES = 8 * 1024
"""Bound of what a copy adds to its original: an id, a key, headers of bounded texts."""
SMALL_BYTES = 64 * 1024
"""Size that every topic takes, unless it is being expanded: then it takes no record (`tally topic expand`)."""

IDS_PER_LOOKUP = 200
"""Ids of one query: each may have its own namespace of up to 128 bytes, four times that escaped, and a bound parameter
has at most 128 KiB."""

_RECORDED = (
    "SELECT interaction_id, _partition, _offset, 'stored' AS verdict, '' AS reason, "
    "0 AS _copy_partition, 0 AS _copy_offset "
    f"FROM {INTERACTIONS} WHERE {{condition}} UNION ALL "
    "SELECT interaction_id, _partition, _offset, toString(verdict), reason, _copy_partition, _copy_offset "
    f"FROM {OUTCOMES} WHERE {{condition}}"
).replace(
    "{condition}",
    "namespace IN {namespaces:Array(String)} AND interaction_id IN {ids:Array(String)} AND _topic = {topic:String}",
)

log = logging.getLogger("tally.worker")


class Mover:
    """Moves all misplaced events of one topic."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        """`stack` closes the producer, which connects when the first event has to be moved."""
        self._settings = settings
        self._most_bytes = event_limits(settings).record_bytes
        self._stack = stack
        self._client: AIOKafkaProducer | None = None

    async def set_apart(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Turn misplaced events into moves, except for events that have a row."""
        misplaced = validated.events.misplaced & ~validated.done
        if misplaced.any():
            validated.moves = moves_of(batch, validated.events[misplaced])
            validated.events, validated.done = validated.events[~misplaced], validated.done[~misplaced]

    async def send(self, moves: Sequence[Move]) -> list[RejectedRecord]:
        """Write the copies; acknowledged by Kafka on return. Returns the events whose copies are too large.

        Raises Fatal.
        """
        by_home: dict[int, list[Move]] = defaultdict(list)
        for move in moves:
            by_home[move.home].append(move)
        sending = (self._send_to(home, some) for home, some in by_home.items())
        # All are awaited, also when one raises: no write may continue after return.
        refused: list[RejectedRecord] = []
        for found in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found
            refused += found
        return refused

    async def _send_to(self, home: int, moves: Sequence[Move]) -> list[RejectedRecord]:
        """Send batch after batch; one that is refused for its size is halved, down to single records."""
        refused: list[RejectedRecord] = []
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
        """Whether workers would reject the copy for its size."""
        if nbytes_of(move.record) + MAX_GROWTH_BYTES <= self._most_bytes:
            return False
        return record_size(*copy_of(self._settings.topic, move)) > self._most_bytes

    async def _put(self, home: int, moves: Sequence[Move]) -> tuple[int, str]:
        """Write a batch of the first moves to a partition; returns their number, and why Kafka refuses them or ''."""
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
            log.warning(
                "a producer writes events to other partitions than their keys' (docs/wire.md); "
                "they are copied to the right ones"
            )
        return self._client


def moves_of(batch: Batch, misplaced: Events) -> list[Move]:
    """Make the moves of misplaced events of a batch."""
    moves = []
    for line, record in zip(range(len(misplaced)), batch.records_of(misplaced), strict=True):
        event, headers = misplaced.at(line), misplaced.headers[misplaced.headers_of[line]]
        moves.append(
            Move(
                event.partition,
                record,
                headers,
                event.interaction_id,
                has_id=bool(misplaced.columns.has_id[line]),
                key=partition_key(event.namespace, event, event.idempotency_key),
                home=int(misplaced.homes[line]),
                user_id=event.user_id,
                execution_id=event.execution_id,
            )
        )
    return moves


def copy_of(topic: str, move: Move) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Make the copy of a misplaced event: its key, value and headers."""
    record, given = move.record, move.headers
    value = record.value or b""
    headers = encode_headers(
        given.namespace,
        derived_id=True,
        idempotency_key=given.idempotency_key,
        origin_ms=record.timestamp if given.origin_ms is None else given.origin_ms,
        deduplicate=given.deduplicate,
        traceparent=given.traceparent,
        moved_from=str(Origin(topic, move.partition, move.offset)),
    )
    return move.key, value if move.has_id else with_id(value, move.interaction_id), headers


def not_moved(move: Move, why: str) -> RejectedRecord:
    """Reject a misplaced event that cannot be moved."""
    rejection = Rejection("not_moved", "", f"its key belongs on partition {move.home}, and it cannot be moved: {why}")
    namespace, interaction_id = move.headers.namespace, move.interaction_id
    return RejectedRecord(
        move.partition, move.record, namespace, interaction_id, rejection, move.user_id, move.execution_id
    )


class _RecordedOutcome(NamedTuple):
    """Outcome of a record in the live tables."""

    partition: int
    offset: int
    verdict: str
    reason: str
    copy_partition: int
    copy_offset: int


class ReplayMover:
    """Mover of a worker that replays the log of the workers of `live`."""

    def __init__(self, live: Settings, database: ClickHouse) -> None:
        self._live = live
        self._database = database
        self._committed: Mapping[int, int] = {}

    async def set_apart(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Turn events that were moved into moves. Raises TallyError when the live workers have not read one yet."""
        lines = np.flatnonzero(validated.events.misplaced & ~validated.done)
        if not len(lines):
            return
        moves = moves_of(batch, validated.events[lines])
        recorded = await self._recorded(moves)
        stays = np.ones(len(validated.events), np.bool_)
        for line, move in zip(lines.tolist(), moves, strict=True):
            found = await self._find_move(move, recorded[move.interaction_id])
            if isinstance(found, RejectedRecord):
                validated.rejected.append(found)
            elif found is not None:
                validated.moves.append(found)
            stays[line] = found is None
        validated.events, validated.done = validated.events[stays], validated.done[stays]

    async def send(self, _moves: Sequence[Move]) -> list[RejectedRecord]:
        """Do nothing: the copies are in the log."""
        return []

    async def _recorded(self, moves: Sequence[Move]) -> Mapping[str, list[_RecordedOutcome]]:
        found: dict[str, list[_RecordedOutcome]] = defaultdict(list)
        for start in range(0, len(moves), IDS_PER_LOOKUP):
            some = moves[start : start + IDS_PER_LOOKUP]
            where = {
                "topic": self._live.topic,
                "namespaces": sorted({move.headers.namespace for move in some}),
                "ids": [move.interaction_id for move in some],
            }
            for interaction_id, *row in await retrying(
                "looking up moves", partial(self._database.rows, _RECORDED, where)
            ):
                found[interaction_id].append(_RecordedOutcome(*row))
        return found

    async def _find_move(self, move: Move, recorded: Sequence[_RecordedOutcome]) -> Move | RejectedRecord | None:
        """Return the move with the place of its copy, or its rejection, or None when the event was not moved."""
        for each in recorded:
            if (each.partition, each.offset) == (move.partition, move.offset):
                if each.verdict == "moved":
                    move.home, move.copy_offset = each.copy_partition, each.copy_offset
                    return move
                return not_moved(move, "as the live workers found") if each.reason == "not_moved" else None
        for each in recorded:  # the live tables may have lost the original's row: replays repair that
            if each.partition == move.home:
                move.copy_offset = each.offset
                return move
        if not await self._is_committed(move):
            raise TallyError(
                f"{self._live.topic}/{move.partition} offset {move.offset} is on another partition than its key's, and "
                f"the workers of group {self._live.group} (TALLY_GROUP) have not read it yet: let them catch up, "
                "then replay again"
            )
        return None

    async def _is_committed(self, move: Move) -> bool:
        if self._committed.get(move.partition, 0) <= move.offset:
            async with kafka.admin(self._live) as admin:
                ask = partial(kafka.committed_offsets, admin, self._live.group, self._live.topic)
                self._committed = await retrying("reading committed offsets", ask)
        return self._committed.get(move.partition, 0) > move.offset
