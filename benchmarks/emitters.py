"""Process that puts events on the topic one way, and prints its rate and CPU time as JSON; `benchmarks.emit` starts it.

python -m benchmarks.emitters {emit_many,send} EVENTS
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

from aiokafka import AIOKafkaProducer

from producers.producer import NotAccepted, Producer
from producers.simulation.simulator import Simulator
from runtime.errors import TallyError
from runtime.kafka_connection import connection_options
from runtime.settings import Settings
from schemas.identity import mint_id
from schemas.interaction import Interaction
from schemas.wire import encode_headers, encode_value, partition_key

DISTINCT = 5_000
"""Different interactions, which repeat: making one takes longer than emitting it."""
IN_FLIGHT = 5_000
BATCH_BYTES = 128 * 1024


def interactions() -> list[Interaction]:
    """Return the interactions of the benchmark."""
    return list(itertools.islice(Simulator(1, duplicates=0), DISTINCT))


def records(settings: Settings) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of the records that `emit_many` makes of the interactions."""
    for each in interactions():
        yield partition_key(settings.namespace, each, None), encode_value(each, mint_id())


async def emit_many(settings: Settings, events: int) -> tuple[float, float]:
    """Emit interactions. Return seconds and CPU seconds."""
    items = interactions()
    async with Producer(settings) as producer:
        begun, cpu = time.perf_counter(), time.process_time()
        async for result in producer.emit_many(itertools.islice(itertools.cycle(items), events)):
            if isinstance(result, NotAccepted):
                raise result.error
        return time.perf_counter() - begun, time.process_time() - cpu


async def send(settings: Settings, events: int) -> tuple[float, float]:
    """Send the same records, encoded before, by aiokafka's `send`. Return seconds and CPU seconds."""
    encoded, headers = list(records(settings)), encode_headers(settings.namespace)
    client = AIOKafkaProducer(
        **connection_options(settings),
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=5,
        max_batch_size=BATCH_BYTES,
    )
    async with client:
        begun, cpu, waiting = time.perf_counter(), time.process_time(), []
        for key, value in itertools.islice(itertools.cycle(encoded), events):
            waiting.append(await client.send(settings.topic, value=value, key=key, headers=headers))
            if len(waiting) == IN_FLIGHT:
                await asyncio.gather(*waiting[: IN_FLIGHT // 2])
                del waiting[: IN_FLIGHT // 2]
        await asyncio.gather(*waiting)
        return time.perf_counter() - begun, time.process_time() - cpu


WAYS: dict[str, Callable[[Settings, int], Awaitable[tuple[float, float]]]] = {"emit_many": emit_many, "send": send}


async def main() -> None:
    """Measure one way."""
    way, events = sys.argv[1], int(sys.argv[2])
    try:
        seconds, cpu_s = await WAYS[way](Settings.load(), events)
    except TallyError as error:
        sys.exit(str(error))
    print(json.dumps({"events_per_s": events / seconds, "cpu_us": cpu_s / events * 1e6}))


if __name__ == "__main__":
    asyncio.run(main())
