"""`make bench-freshness`: how long it takes from emit until an event can be queried, at given rates.

Batches of records are built before the clock starts and sent tick by tick: on two cores building them would take the
time that is to be measured. One event a tick is looked for in ClickHouse until it is there.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from rich.console import Console
from rich.table import Table

from benchmarks import topic
from benchmarks.systems import Tally
from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.migrate import migrate
from runtime.settings import Settings
from schemas.wire import encode_headers

TICK_S = 0.01
POLL_S = 0.005
WARM_UP_S = 3.0
LONGEST_S = 60.0

_THERE = "SELECT interaction_id FROM interactions WHERE namespace = 'default' AND interaction_id IN {ids:Array(String)}"


class Tick(NamedTuple):
    """What is sent together."""

    batches: list[tuple[int, BatchBuilder]]
    sample: str
    """The id that is looked for."""


class Freshness(NamedTuple):
    """Seconds from emit to queryable, at one rate."""

    rate: float
    sent_per_s: float
    samples: int
    p50_s: float
    p99_s: float
    max_s: float
    remark: str


def build(producer: AIOKafkaProducer, settings: Settings, rate: float, seconds: float, seed: int) -> list[Tick]:
    """Every batch of a run."""
    chance, headers, number = random.Random(seed), encode_headers(topic.NAMESPACE), 0
    placed = topic.Placed(settings.partitions)
    ticks = []
    due = 0.0
    for _ in range(int(seconds / TICK_S)):
        due += rate * TICK_S
        builders: dict[int, BatchBuilder] = {}
        sample = ""
        while due >= 1:
            due -= 1
            facts = topic.facts_of(number, seed)
            number += 1
            value, sample = topic.value_of(facts, chance)
            partition = placed(facts.execution_id)
            builder = builders.setdefault(partition, producer.create_batch())
            key = f"{topic.NAMESPACE}:{facts.execution_id}".encode()
            builder.append(key=key, value=value, timestamp=None, headers=headers)
        for builder in builders.values():
            builder.close()
        ticks.append(Tick(list(builders.items()), sample))
    return ticks


class Watch:
    """When each sample was sent, and when it was first seen."""

    def __init__(self, database: ClickHouse) -> None:
        self._database = database
        self._sent: dict[str, float] = {}
        self.took_s: list[float] = []

    def sent(self, sample: str, at: float) -> None:
        """From here on it is looked for."""
        self._sent[sample] = at

    @property
    def waiting(self) -> int:
        """Samples that have not been seen yet."""
        return len(self._sent)

    async def look(self) -> None:
        """Look for all of them until cancelled."""
        while True:
            if self._sent:
                rows = await self._database.rows(_THERE, {"ids": list(self._sent)[:2_000]})
                seen = time.monotonic()
                self.took_s += [seen - self._sent.pop(row[0]) for row in rows]
            await asyncio.sleep(POLL_S)


async def measure(
    stack: Stack, database: ClickHouse, settings: Settings, options: argparse.Namespace, rate: float
) -> Freshness:
    """Send at a rate, and watch."""
    async with kafka.producer(settings) as producer:
        ticks = build(producer, settings, rate, options.seconds + WARM_UP_S, seed=int(rate))
        system = Tally(stack, settings, database, 2, 0)
        system.start()
        watch = Watch(database)
        looking = asyncio.create_task(watch.look())
        begun = time.monotonic()
        sent, warm = 0, int(WARM_UP_S / TICK_S)
        for number, tick in enumerate(ticks):
            await asyncio.sleep(max(0.0, begun + number * TICK_S - time.monotonic()))
            at = time.monotonic()
            for partition, batch in tick.batches:
                await producer.send_batch(batch, settings.topic, partition=partition)
                sent += batch.record_count()
            if tick.sample and number >= warm:
                watch.sent(tick.sample, at)
        sent_per_s = sent / (time.monotonic() - begun)
        deadline = time.monotonic() + LONGEST_S
        while watch.waiting and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        looking.cancel()
        remark = await system.stop()
    took = sorted(watch.took_s)
    return Freshness(
        rate, sent_per_s, len(took), statistics.median(took), took[int(len(took) * 0.99)], took[-1], remark
    )


async def run(options: argparse.Namespace) -> list[Freshness]:
    """Each rate on a topic of its own."""
    found = []
    async with AsyncExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
        stack = opened.enter_context(Stack(Settings(data_dir=Path(folder))))
        for rate in options.rates:
            name = f"fresh{int(rate)}"
            own = {"topic": name, "group": name, "database": name, "key_prefix": name}
            settings = stack.settings().model_copy(update=own)
            await kafka.create_topics(settings)
            await migrate(settings)
            async with connect(settings) as database:
                found.append(await measure(stack, database, settings, options, rate))
                print(found[-1], flush=True)
                await database.command(f"DROP DATABASE {name} SYNC")
    return found


def report(found: list[Freshness]) -> None:
    """The table."""
    table = Table("events/s asked", "sent", "samples", "p50 ms", "p99 ms", "max ms")
    for each in found:
        times = (f"{seconds * 1000:.0f}" for seconds in (each.p50_s, each.p99_s, each.max_s))
        table.add_row(f"{each.rate:,.0f}", f"{each.sent_per_s:,.0f}", str(each.samples), *times)
    Console(width=120).print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="make bench-freshness",
        description=__doc__,
        epilog="Example: make bench-freshness ARGS='--rates 25000 80000'",
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[1_000.0, 20_000.0, 60_000.0], help="events a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=Path(".tally/bench"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    found = asyncio.run(run(options))
    report(found)
    (options.folder / "freshness.json").write_text(json.dumps([each._asdict() for each in found], indent=2))


if __name__ == "__main__":
    main()
