"""`make bench-freshness`: time from emit until an event is queryable, at given rates.

One event every few ticks is a sample, which is queried in ClickHouse until it is found. Samples have their own
namespace, because a search among all events would cost more than storing them.
"""

import argparse
import asyncio
import time
from typing import NamedTuple

from benchmarks import command
from benchmarks.load import SAMPLES, TICK_S, sender
from benchmarks.meter import Meter
from benchmarks.systems import Tally
from deploy.embedded.stack import Stack
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait

POLL_S = 0.04
"""Interval of queries, each of which takes some ms of CPU; the measured times are too long by up to this much."""
TICKS_PER_SAMPLE = 3
COUNT_PARTS_EVERY_S = 1.0
WARM_UP_S = 25.0
"""Time in which workers start and catch up, and the broker's JIT compiles."""
LONGEST_S = 60.0

_PARTS = "SELECT count() FROM system.parts WHERE database = {database:String} AND table = 'interactions' AND active"
_THERE = (
    f"SELECT interaction_id FROM interactions WHERE namespace = '{SAMPLES}' AND interaction_id >= {{oldest:String}}"
)


class Freshness(NamedTuple):
    """Seconds from emit to queryable, at one rate."""

    rate: float
    sent_per_s: float
    samples: int
    p50_s: float
    p99_s: float
    max_s: float
    most_parts: int
    """Maximum number of the table's parts, which many small inserts increase."""
    clickhouse_cores: float
    """CPU of ClickHouse, in cores: seconds of CPU per second. Less noisy than the times on a machine that is shared."""
    worker_cores: float
    """CPU of both workers, in cores."""
    remark: str


class Watch:
    """Watch over samples: the times of sending and of the first query that finds them."""

    def __init__(self, database: ClickHouse, name: str) -> None:
        self._database, self._name = database, name
        self._sent: dict[str, float] = {}
        self._samples = 0
        self.took_s: list[float] = []
        self.most_parts = 0

    def sent(self, sample: str, at: float) -> None:
        """Record a sent sample; one of TICKS_PER_SAMPLE is queried, after the warm-up."""
        self._samples += 1
        if self._samples * TICK_S >= WARM_UP_S and self._samples % TICKS_PER_SAMPLE == 0:
            self._sent[sample] = at

    @property
    def waiting(self) -> int:
        """Number of samples that are not found yet."""
        return len(self._sent)

    async def look(self) -> None:
        """Query waiting samples until cancelled."""
        while True:
            if self._sent:
                rows = await self._database.rows(_THERE, {"oldest": min(self._sent)})
                seen = time.monotonic()
                self.took_s += [seen - self._sent.pop(row[0]) for row in rows if row[0] in self._sent]
            await asyncio.sleep(POLL_S)

    async def count_parts(self) -> None:
        """Count the table's parts until cancelled."""
        while True:
            ((parts,),) = await self._database.rows(_PARTS, {"database": self._name})
            self.most_parts = max(self.most_parts, parts)
            await asyncio.sleep(COUNT_PARTS_EVERY_S)


async def measure(
    stack: Stack, database: ClickHouse, settings: Settings, options: argparse.Namespace, rate: float
) -> Freshness:
    """Measure the freshness at one rate."""
    async with sender(settings, rate, options.seconds + WARM_UP_S, seed=int(rate)) as load:
        system = Tally(stack, settings, database, 2, 0)
        system.start()
        watch = Watch(database, settings.database)
        tasks = [asyncio.create_task(watch.look()), asyncio.create_task(watch.count_parts())]

        meter = Meter({"clickhouse": [stack.pid("clickhouse")], "workers": system.worker_pids})
        meter.start()
        begun = time.monotonic()
        sent_per_s = await load.send(watch.sent)
        took_s, cpu_s = time.monotonic() - begun, meter.cpu_s()
        deadline = time.monotonic() + LONGEST_S
        while watch.waiting and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        await cancel_and_wait(*tasks)
        if watch.waiting:
            raise RuntimeError(f"{watch.waiting} samples not seen within {LONGEST_S:.0f} s at {rate:,.0f} events/s")
        remark = await system.stop()
    p50, p99 = command.percentiles_of(watch.took_s)
    samples, most_s = len(watch.took_s), max(watch.took_s)
    cores = cpu_s["clickhouse"] / took_s, cpu_s["workers"] / took_s
    return Freshness(rate, sent_per_s, samples, p50, p99, most_s, watch.most_parts, *cores, remark)


async def run(options: argparse.Namespace) -> list[Freshness]:
    """Measure each rate on its own topic."""
    found = []
    with command.temporary_stack(options.folder) as stack:
        for rate in options.rates:
            settings = command.named(stack, f"fresh{int(rate)}")
            async with command.installed(settings) as database:
                found.append(await measure(stack, database, settings, options, rate))
                print(found[-1], flush=True)
    return found


def report(found: list[Freshness]) -> None:
    """Print the table."""
    rows = []
    for each in found:
        times = (f"{seconds * 1000:.0f}" for seconds in (each.p50_s, each.p99_s, each.max_s))
        cores = (f"{value:.2f}" for value in (each.clickhouse_cores, each.worker_cores))
        sent = f"{each.rate:,.0f}", f"{each.sent_per_s:,.0f}", str(each.samples)
        rows.append((*sent, *times, str(each.most_parts), *cores))
    columns = ["events/s wanted", "sent", "samples", "p50 ms", "p99 ms", "max ms", "most parts"]
    command.show([*columns, "ClickHouse cores", "workers' cores"], rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-freshness", __doc__, "ARGS='--rates 25000 80000'")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e3, 20e3, 60e3], help="events per second")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    found = asyncio.run(run(options))
    report(found)
    command.save(options.folder, "freshness", [each._asdict() for each in found])
    with command.plot(options.folder, "freshness", "From emit to queryable") as axes:
        rates = [each.rate for each in found]
        axes.plot(rates, [each.p50_s * 1000 for each in found], "o-", label="p50")
        axes.plot(rates, [each.p99_s * 1000 for each in found], "o-", label="p99")
        axes.set(xlabel="events/s", ylabel="ms", ylim=(0, None))
        axes.legend()


if __name__ == "__main__":
    main()
