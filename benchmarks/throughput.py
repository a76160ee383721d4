"""`make bench`: throughput of Tally and other systems, in turn on one topic.

The others are ClickHouse's Kafka engine, Quix Streams, a naive loop, Apache Flink, Pathway and ClickHouse's sink for
Kafka Connect. One whose environment cannot be prepared is reported and skipped. A system is timed from the first tenth
of its records to the last record. Before each run of Tally claims are loaded, so that it starts with a full window.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks import command, filled_rows, topic
from benchmarks.environments import Environment, PeerUnavailable, prepare
from benchmarks.meter import Meter
from benchmarks.systems import Peer, System, Tally
from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.clickhouse import connect
from runtime.redis import connect_redis
from runtime.settings import Settings

POLL_S = 0.25
BEGIN_SHARE = 0.10
LONGEST_S = 900.0
PEER_DATABASE = "peers"


@dataclass
class SystemRun:
    """Run of one system."""

    system: str
    events: int
    seconds: float
    """Time from the first tenth to the last record, without the start of processes and the takeover of claims."""
    startup_s: float
    cpu_us: dict[str, float] = field(default_factory=dict)
    """CPU microseconds per event, by process."""
    peak_mib: dict[str, int] = field(default_factory=dict)
    remark: str = ""

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


async def measure(stack: Stack, system: System) -> SystemRun:
    """Run a system from start to its last record."""
    begun = time.monotonic()
    system.start()
    deadline = begun + LONGEST_S
    while (first := await system.done()) < BEGIN_SHARE * system.events:
        _check(deadline, system, first)
        await asyncio.sleep(POLL_S)
    started = time.monotonic()
    parts = {"broker": "kafka", "redis": "redis", "clickhouse": "clickhouse"}
    meter = Meter({"worker": system.worker_pids, **{name: [stack.pid(part)] for name, part in parts.items()}})
    meter.start()
    while (done := await system.done()) < system.events:
        _check(deadline, system, done)
        await asyncio.sleep(POLL_S)
    seconds = time.monotonic() - started
    events = done - first
    if not events:
        raise RuntimeError(
            f"{system.name} did everything in one step, which cannot be timed: raise --slice or --events"
        )
    cpu_us = {name: cpu_s / events * 1e6 for name, cpu_s in meter.cpu_s().items()}
    peak = {name: peak >> 20 for name, peak in meter.peak_bytes().items()}
    remark = await system.stop()
    return SystemRun(system.name, events, seconds, started - begun, cpu_us, peak, remark)


def _check(deadline: float, system: System, done: int) -> None:
    if time.monotonic() > deadline:
        raise RuntimeError(f"{system.name} did {done:,} of {system.events:,} records in {LONGEST_S:.0f} s")


class Bench:
    """Stack with a filled topic."""

    def __init__(self, stack: Stack, options: argparse.Namespace) -> None:
        self._stack, self._options = stack, options
        self._settings = stack.settings().model_copy(update={"topic": "bench", "partitions": options.partitions})
        self._number = itertools.count()
        self._log_begin_ms = 0

    async def fill(self) -> None:
        """Put the events on the topic."""
        await kafka.create_topics(self._settings)
        begun, self._log_begin_ms = time.monotonic(), topic.now_ms()
        size = await topic.fill(self._settings, self._options.events, self._options.seed)
        print(f"{self._options.events:,} events of {size} bytes put on the topic in {time.monotonic() - begun:.0f} s")

    @asynccontextmanager
    async def tally(self, workers: int) -> AsyncIterator[System]:
        """Open Tally with its own database, group and claims."""
        name = f"bench{next(self._number)}"
        settings = command.named(self._stack, name, topic=self._settings.topic, partitions=self._settings.partitions)
        async with command.installed(settings) as database, connect_redis(settings) as redis:
            begun = time.monotonic()
            if self._options.claims:
                await topic.fill_claims(settings, redis, self._options.claims, self._options.seed, self._log_begin_ms)
                used = (await redis.info("memory"))["used_memory"] / self._options.claims
                print(
                    f"claims: {used:.0f} bytes each in Valkey, loaded in {time.monotonic() - begun:.0f} s", flush=True
                )
            await filled_rows.fill(database, 0, self._options.stored)
            try:
                yield Tally(
                    self._stack, settings, database, workers, self._options.events, rows_before=self._options.stored
                )
            finally:
                await redis.flushall()

    @asynccontextmanager
    async def peer(
        self, environment: Environment, label: str, events: int, options: dict[str, object]
    ) -> AsyncIterator[System]:
        """Open a peer with a table of its own."""
        table = f"peer{next(self._number)}"
        where = {
            "kafka": self._settings.kafka,
            "topic": self._settings.topic,
            "redis": self._settings.redis.get_secret_value(),
            "clickhouse": self._settings.clickhouse.get_secret_value(),
            "group": table,
            "table": f"{PEER_DATABASE}.{table}",
            "scratch": str(self._settings.data_dir.absolute() / table),
        }
        system = Peer(label, environment, events, {**where, **options})
        async with connect(self._settings, database="default") as database, connect_redis(self._settings) as redis:
            await database.command(f"CREATE DATABASE IF NOT EXISTS {PEER_DATABASE}")
            try:
                yield system
            finally:
                await system.stop()
                await redis.flushall()
                await database.command(f"DROP TABLE IF EXISTS {PEER_DATABASE}.{table} SYNC")


class Turn(NamedTuple):
    """System to measure: a peer, or Tally with a number of workers."""

    peer: str
    """Name of its environment; empty for Tally."""
    label: str = ""
    processes: int = 1
    slices: float = 0
    """Events, in slices of `--slice`; 0 means the whole topic."""

    def open(
        self, bench: Bench, options: argparse.Namespace, environments: dict[str, Environment]
    ) -> AbstractAsyncContextManager[System]:
        """Open the system."""
        if not self.peer:
            return bench.tally(self.processes)
        events = min(options.events, int(options.slice * self.slices)) if self.slices else options.events
        return bench.peer(environments[self.peer], self.label, events, {"processes": self.processes})


TURNS = (
    Turn("engine", "clickhouse kafka engine"),
    Turn("", processes=2),
    Turn("", processes=1),
    Turn("quix", "quix, 1 process", 1, 1),
    Turn("quix", "quix, 2 processes", 2, 1),
    Turn("naive", "naive loop", 1, 0.25),
    Turn("flink", "flink, 2 slots"),
    Turn("pathway", "pathway", 1, 1),
    Turn("connect", "kafka connect sink, 2 tasks"),
)
"""Systems by their numbers in `--only`."""


def prepared(turns: Iterable[Turn], folder: Path, cache_dir: Path) -> dict[str, Environment]:
    """Return the environments of peers by name, without those that cannot be prepared, which are reported."""
    environments = {}
    for name in dict.fromkeys(turn.peer for turn in turns if turn.peer):
        try:
            environments[name] = prepare(name, folder, cache_dir)
        except PeerUnavailable as reason:
            print(f"{name} is skipped: {reason}", flush=True)
    return environments


async def run(options: argparse.Namespace) -> list[list[SystemRun]]:
    """Measure all rounds."""
    rounds = []
    chosen = [turn for at, turn in enumerate(TURNS) if not options.only or at in options.only]
    environments = prepared(chosen, options.folder.absolute() / "environments", Settings().cache_dir)
    with command.temporary_stack(options.folder) as stack:
        bench = Bench(stack, options)
        await bench.fill()
        ready = [turn for turn in chosen if not turn.peer or turn.peer in environments]
        for number in range(options.rounds):
            readings = []
            for turn in ready:
                async with turn.open(bench, options, environments) as system:
                    reading = await measure(stack, system)
                readings.append(reading)
                cpu = ", ".join(f"{name} {us:.1f}" for name, us in reading.cpu_us.items())
                print(f"round {number + 1}: {reading.system}: {reading.rate:,.0f} events/s {reading.remark}")
                print(
                    f"    start-up {reading.startup_s:.1f} s; CPU us per event: {cpu}; peak MiB {reading.peak_mib}",
                    flush=True,
                )
            rounds.append(readings)
    return rounds


def report(rounds: list[list[SystemRun]]) -> dict[str, dict[str, float]]:
    """Print the table, and return the median ratios of Tally with two workers to each peer, per round.

    The ratio of CPU is that of microseconds per event, all processes together: it is steadier than that of events.
    """
    rows = []
    by_system: dict[str, list[SystemRun]] = {}
    for reading in itertools.chain.from_iterable(rounds):
        by_system.setdefault(reading.system, []).append(reading)
    for name, readings in by_system.items():
        rates = [reading.rate for reading in readings]
        middle = sorted(readings, key=lambda each: each.rate)[len(readings) // 2]
        cpu = " ".join(f"{part} {us:.1f}" for part, us in middle.cpu_us.items())
        peak = " ".join(f"{part} {mib}" for part, mib in middle.peak_mib.items())
        spread = f"{min(rates):,.0f} - {max(rates):,.0f}"
        rows.append((name, f"{statistics.median(rates):,.0f}", spread, cpu, peak))
    command.show(["system", "events/s", "spread", "CPU us per event", "peak MiB"], rows)
    ratios = _ratios(rounds, lambda ours, peer: ours.rate / peer.rate)
    cpu_ratios = _ratios(rounds, lambda ours, peer: sum(peer.cpu_us.values()) / sum(ours.cpu_us.values()))
    print("ratio of CPU: " + " ".join(f"{word} {ratio:.2f}" for word, ratio in cpu_ratios.items()))
    print("ratio: " + " ".join(f"{word} {ratio:.2f}" for word, ratio in ratios.items()))
    return {"events": ratios, "cpu": cpu_ratios}


def _ratios(rounds: list[list[SystemRun]], ratio: Callable[[SystemRun, SystemRun], float]) -> dict[str, float]:
    """Return the median over the rounds of Tally's smallest ratio to the systems of each peer."""
    ratios = {}
    for word in ("engine", "naive", "quix", "flink", "pathway", "connect"):
        pairs = []
        for readings in rounds:
            ours = [each for each in readings if each.system == "tally, 2 workers"]
            theirs = [each for each in readings if word in each.system]
            if ours and theirs:
                pairs.append(min(ratio(ours[0], peer) for peer in theirs))
        if pairs:
            ratios[word] = statistics.median(pairs)
    return ratios


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench", __doc__, "QUICK=1")
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--claims", type=int, default=20_000_000, help="claims of a full window, loaded first")
    parser.add_argument("--stored", type=int, default=0, help="other rows, put into Tally's table first")
    parser.add_argument(
        "--slice",
        type=int,
        default=200_000,
        help="events for Quix Streams and Pathway; a quarter for the naive loop",
    )
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only",
        type=int,
        nargs="*",
        help="systems: 0 engine, 1 tally x2, 2 tally x1, 3-4 quix, 5 naive, 6 flink, 7 pathway, 8 kafka connect sink",
    )
    parser.add_argument("--quick", action="store_true", help="only check that it works; the figures mean nothing")
    options = parser.parse_args()
    if options.quick:
        options.events, options.claims, options.slice, options.rounds = 40_000, 100_000, 10_000, 1
    rounds = asyncio.run(run(options))
    ratios = report(rounds)
    out = {"ratios": ratios, "rounds": [[vars(reading) for reading in readings] for readings in rounds]}
    command.save(options.folder, "throughput", out)
    with command.plot(options.folder, "throughput", "Events per second, each round") as axes:
        for number, readings in enumerate(rounds):
            axes.plot([each.system for each in readings], [each.rate for each in readings], "o", label=f"{number + 1}")
        axes.set(ylim=(0, None))
        axes.legend(title="round")


if __name__ == "__main__":
    main()
