"""Load at a rate, from a separate process: record batches that are built beforehand, and sent tick by tick.

On two cores building them concurrently would distort the measurement. `python -m benchmarks.load` is that process. Its
settings come from the environment, and it starts to send at the end of its input. A mixed load is of any length: it has
repeated and invalid events as well, and is built while it is sent.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from benchmarks import topic
from producers.partitions import partition_of
from runtime import kafka
from runtime.process.children import module_command
from runtime.settings import Settings
from schemas.wire import encode_headers

TICK_S = 0.02
SAMPLES = "samples"
"""Namespace of samples, in which they are found without a search through all events."""
REPEATED, INVALID = 0.05, 0.01
"""Shares of a mixed load: events with the deduplication key of an earlier one, and events with an unknown field."""
REPEATED_AMONG = 100_000
"""Events before a repeated one, among which it repeats one."""


class Tick(NamedTuple):
    """Record batches that are sent together."""

    batches: list[tuple[int, BatchBuilder]]
    sample: str
    """Id of the last event, which is in the namespace of samples; empty without events."""


def build(
    producer: AIOKafkaProducer, settings: Settings, rate: float, seconds: float, seed: int, *, is_mixed: bool = False
) -> Iterator[Tick]:
    """Build the batches for `seconds` at `rate` events per second."""
    chance, number = random.Random(seed), 0
    others, of_sample = encode_headers(topic.NAMESPACE), encode_headers(SAMPLES)
    placed = topic.partition_cache(settings.partitions)
    due = 0.0
    for _ in range(int(seconds / TICK_S)):
        due += rate * TICK_S
        open_: dict[int, BatchBuilder] = {}
        batches: list[tuple[int, BatchBuilder]] = []
        sample = ""
        while due >= 1:
            due -= 1
            if is_mixed and due >= 1 and number and chance.random() < REPEATED:
                facts = topic.key_fields_of(chance.randrange(max(0, number - REPEATED_AMONG), number), seed)
            else:
                facts = topic.key_fields_of(number, seed)
                number += 1
            value, sample = topic.value_of(facts, chance)
            headers, partition, key = others, placed(facts.execution_id), topic.record_key(facts.execution_id)
            if due < 1:
                # On the partition of its own key: a misplaced event is moved, and takes the whole path twice.
                headers, key = of_sample, topic.record_key(facts.execution_id, SAMPLES)
                partition = partition_of(key, settings.partitions)
            elif is_mixed and chance.random() < INVALID:
                value = value.replace(b'"feature_id"', b'"feature"', 1)
            while (
                partition not in open_
                or open_[partition].append(key=key, value=value, timestamp=None, headers=headers) is None
            ):
                open_[partition] = producer.create_batch()
                batches.append((partition, open_[partition]))
        for _, builder in batches:
            builder.close()
        yield Tick(batches, sample)


async def _send(
    producer: AIOKafkaProducer, to: str, ticks: Iterable[Tick], sent: Callable[[str, float], None]
) -> float:
    """Send each tick at its time, and return events per second. `sent` receives each sample's id and send time."""
    begun, events = time.monotonic(), 0
    for number, tick in enumerate(ticks):
        await asyncio.sleep(max(0.0, begun + number * TICK_S - time.monotonic()))
        at = time.monotonic()
        for partition, batch in tick.batches:
            await producer.send_batch(batch, to, partition=partition)
            events += batch.record_count()
        if tick.sample:
            sent(tick.sample, at)
    return events / (time.monotonic() - begun)


class Sender:
    """Load process that is ready to send."""

    def __init__(self, begin: asyncio.StreamWriter, said: asyncio.StreamReader) -> None:
        self._begin, self._said = begin, said

    async def send(self, sent: Callable[[str, float], None] | None = None) -> float:
        """Send the load, and return events per second. `sent` receives each sample's id and send time."""
        self._begin.close()
        async for line in self._said:
            said = json.loads(line)
            if "sent_per_s" in said:
                return float(said["sent_per_s"])
            if sent is not None:
                sent(said["sample"], said["at"])
        raise RuntimeError("the load process has ended early")


@asynccontextmanager
async def sender(
    settings: Settings, rate: float, seconds: float, seed: int, *, is_mixed: bool = False
) -> AsyncIterator[Sender]:
    """Start a load process with `seconds` of traffic at `rate` events per second, and end it with the block."""
    mixed = ["--mixed"] if is_mixed else []
    process = await asyncio.create_subprocess_exec(
        *module_command("benchmarks.load", str(rate), str(seconds), str(seed), *mixed),
        env=os.environ | settings.as_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a process without pipes")
        await process.stdout.readline()
        yield Sender(process.stdin, process.stdout)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _run(rate: float, seconds: float, seed: int, *, is_mixed: bool) -> None:
    settings = Settings.load()
    async with kafka.producer(settings) as producer:
        built = build(producer, settings, rate, seconds, seed, is_mixed=is_mixed)
        ticks: Iterable[Tick] = built if is_mixed else list(built)
        _say({"ready": True})
        await asyncio.to_thread(sys.stdin.read)
        sent_per_s = await _send(producer, settings.topic, ticks, lambda sample, at: _say({"sample": sample, "at": at}))
    _say({"sent_per_s": sent_per_s})


def _say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("seed", type=int)
    parser.add_argument("--mixed", action="store_true")
    asked = parser.parse_args()
    asyncio.run(_run(asked.rate, asked.seconds, asked.seed, is_mixed=asked.mixed))
