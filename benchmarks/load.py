"""Load at a rate: batches of records that are built before the clock starts, and sent tick by tick.

On two cores building them meanwhile would take the time that is to be measured.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from benchmarks import topic
from runtime.settings import Settings
from schemas.wire import encode_headers

TICK_S = 0.01
SAMPLES = "samples"
"""The namespace of samples: apart from the others, they are found without looking through these."""


class Tick(NamedTuple):
    """What is sent together."""

    batches: list[tuple[int, BatchBuilder]]
    sample: str
    """The id of its last event, which is in a namespace of its own; none when it has no events."""


def build(producer: AIOKafkaProducer, settings: Settings, rate: float, seconds: float, seed: int) -> list[Tick]:
    """All batches of so many seconds at `rate` events a second."""
    chance, number = random.Random(seed), 0
    others, of_sample = encode_headers(topic.NAMESPACE), encode_headers(SAMPLES)
    placed = topic.Placed(settings.partitions)
    ticks = []
    due = 0.0
    for _ in range(int(seconds / TICK_S)):
        due += rate * TICK_S
        open_: dict[int, BatchBuilder] = {}
        batches: list[tuple[int, BatchBuilder]] = []
        sample = ""
        while due >= 1:
            due -= 1
            headers = others if due >= 1 else of_sample
            facts = topic.facts_of(number, seed)
            number += 1
            value, sample = topic.value_of(facts, chance)
            partition, key = placed(facts.execution_id), topic.record_key(facts.execution_id)
            while (
                partition not in open_
                or open_[partition].append(key=key, value=value, timestamp=None, headers=headers) is None
            ):
                open_[partition] = producer.create_batch()
                batches.append((partition, open_[partition]))
        for _, builder in batches:
            builder.close()
        ticks.append(Tick(batches, sample))
    return ticks


async def send(
    producer: AIOKafkaProducer, to: str, ticks: list[Tick], sent: Callable[[int, Tick, float], None] | None = None
) -> float:
    """Send each tick at its time; returns events a second. `sent` is told its number, it, and when that was."""
    begun, events = time.monotonic(), 0
    for number, tick in enumerate(ticks):
        await asyncio.sleep(max(0.0, begun + number * TICK_S - time.monotonic()))
        at = time.monotonic()
        for partition, batch in tick.batches:
            await producer.send_batch(batch, to, partition=partition)
            events += batch.record_count()
        if sent is not None:
            sent(number, tick, at)
    return events / (time.monotonic() - begun)
