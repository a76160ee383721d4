"""Cost of each step of a create in this process, in rounds of several sizes: `python -m benchmarks.create_steps`.

The rest of a create's CPU time in `make bench-http` is HTTP, the clients of Kafka and Redis, and the event loop.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, cast

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks import command, topic
from producers.batches import CompressedBatch
from producers.collector.accepted import AcceptedEvent, scan_texts
from producers.deliveries import OutgoingRecord, Packing
from runtime.sizes import MIB
from schemas.dedup import dedup_key
from schemas.identity import mint_id
from schemas.record import record_from_text
from schemas.wire import encode_headers

ROUNDS = (1, 8, 32, 128)
EVENTS = 20_000
PARTITIONS = 8
APPEND_MS = 1_780_000_000_000


def texts_of(count: int) -> list[bytes]:
    """Return the bodies of create requests."""
    chance = random.Random(1)
    values = [topic.value_of(topic.key_fields_of(number, 1), chance)[0] for number in range(count)]
    return [value[: value.rindex(b',"interaction_id"')] + b"}" for value in values]


class Round:
    """Round of creates, with a method for each step."""

    def __init__(self, size: int) -> None:
        self._texts = texts_of(size)
        self._headers = encode_headers("default")
        self._events: list[AcceptedEvent] = [each for each in scan_texts(self._texts, MIB) if each is not None]
        self._ids = mint_id.many(size)
        self._records: list[OutgoingRecord] = []

    def scan(self) -> None:
        """Scan the bodies."""
        scan_texts(self._texts, MIB)

    def make_records(self) -> None:
        """Mint ids, and make records."""
        ids = mint_id.many(len(self._events))
        self._records = [
            event.record("default", interaction_id, None, self._headers)
            for event, interaction_id in zip(self._events, ids, strict=True)
        ]

    def pack(self) -> None:
        """Hash keys, and pack one batch for each partition."""
        self._batches = self._packed()

    def compress(self) -> None:
        """Finish the batches, of which `pack` left one for each partition."""
        for each in self._batches:
            each._build()

    def hash_keys(self) -> None:
        """Hash the deduplication keys for hints."""
        for each in self._events:
            dedup_key("default", each.execution_id, each.feature_id, each.types, None)

    def answer(self) -> None:
        """Encode the responses."""
        for each, interaction_id in zip(self._events, self._ids, strict=True):
            msgspec.json.encode(record_from_text(each.text, interaction_id, APPEND_MS, occurred_ms=None))

    def _packed(self) -> list[CompressedBatch]:
        packing = Packing(cast(AIOKafkaProducer, None), PARTITIONS, 0.0, 16 * MIB)
        packing.place_all(self._records)
        return [cast(CompressedBatch, each.builder) for each in packing.take()]


def measure(size: int) -> dict[str, float]:
    """Return microseconds of CPU an event, by step."""
    found, turn = dict[str, float](), Round(size)
    steps: list[Callable[[], Any]] = [
        turn.scan, turn.make_records, turn.pack, turn.compress, turn.hash_keys, turn.answer
    ]  # fmt: skip
    for _ in range(EVENTS // size):
        for step in steps:
            begun = time.thread_time_ns()
            step()
            found[step.__name__] = found.get(step.__name__, 0) + time.thread_time_ns() - begun
    return {name: spent / 1_000 / (EVENTS // size * size) for name, spent in found.items()}


async def main() -> None:
    """Print a table: steps, and rounds of several sizes."""
    measured = {size: measure(size) for size in ROUNDS}
    rows = [(step, *(f"{measured[size][step]:.2f}" for size in ROUNDS)) for step in measured[ROUNDS[0]]]
    rows.append(("together", *(f"{sum(measured[size].values()):.2f}" for size in ROUNDS)))
    command.show(["us of CPU an event", *(f"rounds of {size}" for size in ROUNDS)], rows)


if __name__ == "__main__":
    asyncio.run(main())
