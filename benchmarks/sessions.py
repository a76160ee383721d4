"""`make bench-sessions`: what session signals cost a worker, with three sets of learning configurations in each round.

none       no configuration: nothing is computed or sent
other      a retriever that no event has, with a name as long as that of a third of the events
all        every retriever: each event counts, and each has a session of its own, which is the worst case

The three are measured one after the other on one topic, and compared within a round: the machine's speed drifts. The
last one also reports the memory of a session in Redis.
"""

import argparse
import asyncio
import itertools
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import command, topic
from benchmarks.systems import Tally
from benchmarks.throughput import SystemRun, measure
from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import ClickHouse
from runtime.redis import Redis, connect_redis
from runtime.session_signals import BUCKETS, SessionSignals
from runtime.settings import Settings
from schemas.learning_config import LearningConfig

KINDS = {"none": (), "other": ("absent",), "all": ("hybrid", "dense", "keyword")}
"""Configured retrievers of each kind. Those of the topic are in `benchmarks.topic`."""
SAMPLES = 500
SESSIONS = 10**8


async def _configure(database: ClickHouse, retrievers: Sequence[str]) -> None:
    config = LearningConfig().model_dump_json()
    for retriever in retrievers:
        await database.command(
            "INSERT INTO learning_configs SELECT {namespace:String}, {retriever:String}, 1, {config:String}, now64(3)",
            {"namespace": topic.NAMESPACE, "retriever": retriever, "config": config},
        )


async def _memory(redis: Redis, settings: Settings) -> float:
    """Return the mean bytes of a session in Redis, its entry in the index included."""
    signals, sizes = SessionSignals(settings), []
    for bucket in range(BUCKETS):
        state = signals.state_key(bucket)
        count: Any = await redis.zcard(f"{state}:index")
        names: Any = await redis.zrange(f"{state}:index", 0, SAMPLES // BUCKETS)
        if not names:
            continue
        index: Any = await redis.memory_usage(f"{state}:index", samples=0)
        for name in names:
            size: Any = await redis.memory_usage(f"{state}:{name.decode()}", samples=0)
            sizes.append((size or 0) + index / count)
    return statistics.mean(sizes) if sizes else 0.0


async def _measure(stack: Stack, common: Settings, kind: str, name: str, events: int) -> tuple[SystemRun, float]:
    settings = command.named(stack, name, topic=common.topic, partitions=common.partitions, sessions=SESSIONS)
    async with AsyncExitStack() as opened:
        database = await opened.enter_async_context(command.installed(settings))
        redis = await opened.enter_async_context(connect_redis(settings))
        await _configure(database, KINDS[kind])
        try:
            run = await measure(stack, Tally(stack, settings, database, 1, events))
            run.system = kind
            return run, await _memory(redis, settings)
        finally:
            await redis.flushall()


async def run(options: argparse.Namespace) -> list[list[SystemRun]]:
    """Measure all rounds."""
    rounds, numbers = [], itertools.count()
    with command.temporary_stack(options.folder) as stack:
        common = stack.settings().model_copy(update={"topic": "sessions", "partitions": options.partitions})
        await kafka.create_topics(common)
        await topic.fill(common, options.events, options.seed)
        for number in range(options.rounds):
            readings = []
            kinds = list(KINDS) if number % 2 == 0 else list(reversed(KINDS))
            for kind in kinds:
                reading, memory = await _measure(stack, common, kind, f"sessions{next(numbers)}", options.events)
                readings.append(reading)
                cpu = ", ".join(f"{part} {us:.1f}" for part, us in reading.cpu_us.items())
                session = f"; {memory:.0f} bytes a session in Redis" if memory else ""
                print(f"round {number + 1}: {kind}: {reading.rate:,.0f} events/s; CPU us per event: {cpu}{session}")
                print(f"    {reading.remark}", flush=True)
            rounds.append(readings)
    return rounds


def report(rounds: Sequence[Sequence[SystemRun]]) -> dict[str, dict[str, float]]:
    """Print the table; return by kind the median ratios to `none` of the same round: rate, and CPU of an event."""
    by_kind: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
    for readings in rounds:
        named = {reading.system: reading for reading in readings}
        base = named["none"]
        for kind, reading in named.items():
            cpu, base_cpu = (each.cpu_us["worker"] for each in (reading, base))
            by_kind[kind].append((reading.rate, reading.rate / base.rate, cpu / base_cpu))
    medians = {
        kind: [statistics.median(values) for values in zip(*found, strict=True)] for kind, found in by_kind.items()
    }
    rows = [(kind, f"{rate:,.0f}", f"{ratio:.2f}", f"{cpu:.2f}") for kind, (rate, ratio, cpu) in medians.items()]
    command.show(["configurations", "events/s", "ratio of events/s", "ratio of the worker's CPU"], rows)
    return {kind: {"events": ratio, "cpu": cpu} for kind, (_, ratio, cpu) in medians.items()}


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-sessions", __doc__, "QUICK=1")
    parser.add_argument("--events", type=command.at_least(1_000, int), default=1_000_000)
    parser.add_argument("--partitions", type=command.at_least(1, int), default=8)
    parser.add_argument("--rounds", type=command.at_least(1, int), default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="only check that it works; the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        options.events, options.rounds = 40_000, 1
    rounds = asyncio.run(run(options))
    out = {"ratios": report(rounds), "rounds": [[vars(reading) for reading in readings] for readings in rounds]}
    command.save(options.folder, "sessions", out)


if __name__ == "__main__":
    main()
