"""`make recovery`: time of recovery, and memory during an outage, measured on a separate stack.

takeover   a worker is killed under load: until the first new row of its partitions
outage     a store is gone for a minute: until the lag is gone, and whether anything was lost
lag        events wait behind a stopped ClickHouse: memory; then all of them, with Redis flushed in the middle
rebuild    claims of one partition are rebuilt from ClickHouse
"""

import argparse
import asyncio
import itertools
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from consumers.claims.client import Claims
from consumers.claims.rebuild import Rebuild
from consumers.supervised import supervised_workers
from deploy.embedded.stack import Stack
from producers.producer import Producer
from producers.simulation.simulator import Simulator
from readers.audit import audit
from readers.deep_audit import deep_audit
from readers.overview import read_lag
from runtime import kafka
from runtime.clickhouse import ClickHouse, connect
from runtime.expansions import Expansions
from runtime.migrate import migrate
from runtime.process.supervisor import Supervisor
from runtime.redis import connect_redis
from runtime.settings import Settings
from tally.feed import feed
from tally.pace import in_real_time
from tests.traffic import keyed_traffic

POLL_S = 0.02
RATE = 500.0
STEADY_LAG = 200


class Site:
    """A stack, a topic and workers to hurt."""

    def __init__(self, stack: Stack, settings: Settings, database: ClickHouse) -> None:
        self.stack, self.settings, self.database = stack, settings, database
        self.log_dir = settings.data_dir / settings.topic

    def workers(self, count: int) -> Supervisor:
        """Static members under a supervisor, as `tally consume --workers` runs them."""
        supervisor = supervised_workers(
            self.stack.children,
            self.settings,
            workers=count,
            instance_prefix=self.settings.topic,
            log_dir=self.log_dir,
            say=print,
        )
        supervisor.start()
        return supervisor

    def partitions_of(self, worker: str) -> list[int]:
        """Return the partitions that a worker was last assigned, from its log."""
        path = self.log_dir / f"{worker}.log"
        lines = [line for line in path.read_text().splitlines() if " partitions " in line] if path.exists() else []
        numbers = lines[-1].rpartition("partitions ")[2] if lines else ""
        return [int(each) for each in numbers.split(", ") if each.isdigit()]

    async def lag(self) -> int:
        """Records not yet committed."""
        return sum(each.lag for each in await read_lag(self.settings))

    async def until_lag(self, most: int, supervisor: Supervisor) -> float:
        """Seconds until at most `most` records are uncommitted."""
        begun = time.monotonic()
        while await self.lag() > most:
            supervisor.poll()
            await asyncio.sleep(0.1)
        return time.monotonic() - begun

    async def proof(self) -> str:
        """The accounts, in words."""
        parts = [each async for each in audit(self.settings, self.database)]
        deep = await deep_audit(self.settings, self.database)
        total = {name: sum(getattr(each, name) for each in parts) for name in ("accepted", "stored", "duplicates")}
        lost = sum(each.difference for each in parts)
        return f"{total}, difference {lost}, deep audit {'balances' if deep.balances else deep}"


@asynccontextmanager
async def site(stack: Stack, name: str) -> AsyncIterator[Site]:
    """A fresh topic and database."""
    own = {"topic": name, "group": name, "database": name, "key_prefix": name}
    settings = stack.settings().model_copy(update=own)
    await kafka.create_topics(settings)
    await migrate(settings)
    async with connect(settings) as database:
        yield Site(stack, settings, database)


@asynccontextmanager
async def load(where: Site) -> AsyncIterator[None]:
    """Events at a steady rate while the block lasts."""
    stop = asyncio.Event()

    async def emit() -> None:
        async with Producer(where.settings) as producer:
            await feed(producer, in_real_time(Simulator(1).live(RATE), stop), namespace="default")

    emitting = asyncio.create_task(emit())
    try:
        yield
    finally:
        stop.set()
        await emitting


async def takeover(stack: Stack) -> None:
    """kill -9, with the worker started again and with the other one taking over."""
    for restarted in (True, False):
        async with site(stack, f"takeover{int(restarted)}") as where:
            supervisor = where.workers(2)
            async with load(where):
                while len(where.partitions_of("worker-0") + where.partitions_of("worker-1")) != 8:
                    await asyncio.sleep(0.1)
                await where.until_lag(STEADY_LAG, supervisor)
                await asyncio.sleep(5)
                partitions = where.partitions_of("worker-0")
                killed_ms = time.time_ns() // 1_000_000
                os.kill(supervisor.pids[0], signal.SIGKILL)
                sql = (
                    "SELECT count() FROM interactions WHERE _partition IN {partitions:Array(UInt32)} "
                    "AND timestamp > fromUnixTimestamp64Milli({since:Int64}, 'UTC')"
                )
                while True:
                    if restarted:
                        supervisor.poll()
                    ((rows,),) = await where.database.rows(sql, {"partitions": partitions, "since": killed_ms})
                    if rows:
                        break
                    await asyncio.sleep(POLL_S)
                took_s = time.time_ns() / 1e9 - killed_ms / 1000
                how = "the same worker, started again" if restarted else "the other worker, after the session timeout"
                print(f"kill -9 to the first new row, {how}: {took_s:.2f} s")
            supervisor.poll()
            await where.until_lag(0, supervisor)
            supervisor.stop()
            print(f"  {await where.proof()}")


async def outage(stack: Stack, seconds: float) -> None:
    """Each store is gone for a while, under load."""
    for part in ("clickhouse", "redis", "kafka"):
        async with site(stack, f"outage{part}") as where:
            supervisor = where.workers(2)
            async with load(where):
                await asyncio.sleep(10)
                await where.until_lag(STEADY_LAG, supervisor)
                os.kill(stack.pid(part), signal.SIGKILL)
                await asyncio.sleep(seconds)
                back = time.monotonic()
                await asyncio.to_thread(stack.restart, part)
                ready_s = time.monotonic() - back
                steady_s = await where.until_lag(STEADY_LAG, supervisor)
                print(f"{part} gone for {seconds:.0f} s: up after {ready_s:.1f} s, steady {steady_s:.1f} s later")
            await where.until_lag(0, supervisor)
            supervisor.stop()
            print(f"  {await where.proof()}")


async def lag(stack: Stack, few: int, many: int) -> None:
    """Measure a worker's memory with few and with many events waiting for a stopped ClickHouse; then drain them."""
    peaks = []
    for events in (few, many):
        async with site(stack, f"lag{events}") as where:
            supervisor = where.workers(1)
            while len(where.partitions_of("worker-0")) != 8:
                await asyncio.sleep(0.1)
            os.kill(stack.pid("clickhouse"), signal.SIGSTOP)
            async with Producer(where.settings) as producer:
                traffic = itertools.islice(keyed_traffic(events, duplicates=0.1), events)
                fed = await feed(producer, traffic, namespace="default")
            print(f"{fed.accepted:,} events wait ({len(fed.failed)} not accepted)")
            peaks.append(await _settled_peak_mib(supervisor.pids[0]))
            print(f"  peak memory of the worker: {peaks[-1]:.1f} MiB")
            os.kill(stack.pid("clickhouse"), signal.SIGCONT)
            if events == many:
                begun = time.monotonic()
                await where.until_lag(events // 2, supervisor)
                async with _redis(where.settings) as redis:
                    await redis.flushall()
                await where.until_lag(0, supervisor)
                took_s = time.monotonic() - begun
                print(f"  drained in {took_s:.0f} s, Redis flushed in the middle")
                ((rows, tuples),) = await where.database.rows(
                    "SELECT count(), uniqExact(execution_id, feature_id, arraySort(arrayDistinct(interaction_type))) "
                    "FROM interactions FINAL"
                )
                print(f"  {rows:,} rows, {tuples:,} distinct tuples; {await where.proof()}")
                print(f"  peak memory of the worker: {_peak_mib(supervisor.pids[0]):.1f} MiB")
            supervisor.stop(5)
    print(f"peak memory with {many:,} waiting against {few:,}: {peaks[1] / peaks[0]:.3f}")


async def _settled_peak_mib(pid: int) -> float:
    """The peak, once it has not moved for ten seconds."""
    peak, since = 0.0, time.monotonic()
    while time.monotonic() - since < 10:
        if _peak_mib(pid) != peak:
            peak, since = _peak_mib(pid), time.monotonic()
        await asyncio.sleep(0.5)
    return peak


def _peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@asynccontextmanager
async def _redis(settings: Settings) -> AsyncIterator[Redis]:
    redis = Redis.from_url(settings.redis.get_secret_value())
    try:
        yield redis
    finally:
        await redis.aclose()


async def rebuild(stack: Stack, claims: int) -> None:
    """Claims of one partition, from rows that were never anything but rows."""
    async with site(stack, "rebuild") as where, connect_redis(where.settings) as redis:
        await where.database.command(
            "INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, execution_id, "
            "timestamp, _event_time_ms, _topic, _partition, _offset) "
            "SELECT 'default', concat('int_', leftPad(lower(hex(number)), 32, '0')), 'doc-1', ['click'], "
            "concat('search-', toString(number)), now64(3), toUnixTimestamp64Milli(now64(3)), {topic:String}, 0, "
            "number FROM numbers({claims:UInt64})",
            {"topic": where.settings.topic, "claims": claims},
        )
        client = Claims(redis, where.settings)
        now_ms = time.time_ns() // 1_000_000
        lease = await client.take(0, needed=claims - 1, log_end=claims, append_ms=now_ms)
        before: Any = await redis.info("memory")
        begun = time.monotonic()
        work = Rebuild(where.settings, client, where.database, Expansions())
        await work.run(lease, first_offset=claims, append_ms=now_ms)
        took_s = time.monotonic() - begun
        after: Any = await redis.info("memory")
        used = (after["used_memory"] - before["used_memory"]) / claims
        print(
            f"{claims:,} claims rebuilt in {took_s:.0f} s ({claims / took_s:,.0f} a second), {used:.0f} bytes each in "
            f"Valkey; peak memory of this process {_peak_mib(os.getpid()):.0f} MiB"
        )


async def _main(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        stack = opened.enter_context(Stack(Settings(data_dir=Path(folder))))
        for what in options.what or ("takeover", "outage", "lag", "rebuild"):
            print(f"== {what}", flush=True)
            match what:
                case "takeover":
                    await takeover(stack)
                case "outage":
                    await outage(stack, options.seconds)
                case "lag":
                    await lag(stack, options.events // 10, options.events)
                case "rebuild":
                    await rebuild(stack, options.claims)


def main() -> None:
    """Run the selected measurements, by default all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=("takeover", "outage", "lag", "rebuild", []))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--claims", type=int, default=10_000_000)
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
