"""`make bench-claims`: cost of a claim, in Tally's indexed chunks, and as one Redis key per claim.

A full window is loaded first. Then batches are claimed: all new, with duplicates of recent events, and with duplicates
from the whole window. CPU is that of Valkey and of the client process, per event.
"""

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np
from redis.asyncio import Redis as Server

from benchmarks import command, topic
from benchmarks.meter import usage
from consumers.claims.client import Claims, Span
from consumers.claims.owners import OwnerRows
from deploy.embedded.stack import Stack
from runtime.redis import connect_redis

BATCH = 4_000
DUPLICATES = 0.05
RECENT = 50_000


class Cost(NamedTuple):
    """Cost of one storage method for one kind of batch: CPU microseconds per event, and events per second."""

    way: str
    kind: str
    bytes_each: float
    valkey_us: float
    client_us: float
    per_s: float


class Log:
    """Successive events of one partition, some of which repeat earlier ones."""

    def __init__(self, window_ms: int, seed: int) -> None:
        self._chance = np.random.default_rng(seed)
        self._window_ms = window_ms
        self._keys = np.zeros((0, 2), np.int64)
        self._next = 0
        self._now_ms = topic.now_ms()

    def fresh(self, count: int) -> OwnerRows:
        """Return new events with one append time."""
        rows = np.frombuffer(self._chance.bytes(count * 56), np.int64).reshape(-1, 7).copy()
        rows[:, 2] = np.arange(self._next, self._next + count)
        rows[:, 3] = rows[:, 4] = self._now_ms
        self._next += count
        return rows

    def window(self, count: int) -> OwnerRows:
        """Return events spread over the last nine tenths of a window."""
        rows = self.fresh(count)
        ages = np.sort(self._chance.integers(0, self._window_ms * 9 // 10, count))[::-1]
        rows[:, 3] = rows[:, 4] = self._now_ms - ages
        self._keys = rows[:, :2].copy()
        return rows

    def batch(self, reach: int | None) -> OwnerRows:
        """Return events of which 5 % repeat one of the window's last `reach` events; None: all are new."""
        rows = self.fresh(BATCH)
        if reach is not None:
            which = self._chance.choice(BATCH, int(BATCH * DUPLICATES), replace=False)
            rows[which, :2] = self._keys[-self._chance.integers(1, reach, len(which))]
        return rows


async def chunks(stack: Stack, options: argparse.Namespace) -> list[Cost]:
    """Measure claims in Tally's chunks."""
    settings = command.named(stack, "chunks")
    log = Log(settings.dedup_window_ms, options.seed)
    async with connect_redis(settings) as redis:
        client = Claims(redis, settings)
        before = (await redis.info("memory"))["used_memory"]
        rows = log.window(options.claims)
        lease = await topic.restore_claims(client, 0, rows, append_ms=int(rows[-1, 4]))
        each = ((await redis.info("memory"))["used_memory"] - before) / options.claims
        print(f"index: {lease.index.nbytes / options.claims:.1f} bytes per claim in the worker")

        async def ask(batch: OwnerRows) -> int:
            span = Span(int(batch[0, 2]), int(batch[0, 4]), int(batch[-1, 2]), int(batch[-1, 4]))
            return len(await client.claim(lease, span, batch, {}, int(batch[0, 4])))

        begun = time.monotonic()
        lease = await client.take(0, needed=int(rows[-1, 2]), log_end=2**40, append_ms=int(rows[-1, 4]))
        await client.load(lease)
        print(f"takeover of the partition: {len(rows):,} claims loaded in {time.monotonic() - begun:.1f} s")
        return await measure("chunks", stack, log, each, ask, options)


async def plain_keys(stack: Stack, options: argparse.Namespace) -> list[Cost]:
    """Measure one key per claim, by pipelines of a thousand SET NX GET."""
    settings = stack.settings()
    log = Log(settings.dedup_window_ms, options.seed)
    async with Server.from_url(settings.redis.get_secret_value()) as redis:

        async def ask(batch: OwnerRows) -> int:
            duplicates = 0
            for start in range(0, len(batch), 1_000):
                pipeline = redis.pipeline(transaction=False)
                for row in batch[start : start + 1_000]:
                    raw = row.tobytes()
                    pipeline.set(b"p:" + raw[:16], raw[16:], nx=True, get=True, px=settings.claim_ttl_ms)
                duplicates += sum(answer is not None for answer in await pipeline.execute())
            return duplicates

        before = (await redis.info("memory"))["used_memory"]
        rows = log.window(options.claims // 10)
        await ask(rows)
        each = ((await redis.info("memory"))["used_memory"] - before) / len(rows)
        return await measure("plain keys", stack, log, each, ask, options)


async def measure(
    way: str,
    stack: Stack,
    log: Log,
    each: float,
    ask: Callable[[OwnerRows], Awaitable[int]],
    options: argparse.Namespace,
) -> list[Cost]:
    """Claim batches of each kind, one after another."""
    window = options.claims if way == "chunks" else options.claims // 10
    pid = stack.pid("redis")
    found = []
    for kind, reach in (("all new", None), ("5 % recent", min(RECENT, window)), ("5 % of all ages", window)):
        batches = [log.batch(reach) for _ in range(options.batches)]
        expected = 0 if reach is None else int(BATCH * DUPLICATES) * options.batches
        valkey, client, begun = usage(pid).cpu_s, usage(os.getpid()).cpu_s, time.monotonic()
        duplicates = sum([await ask(batch) for batch in batches])
        took = time.monotonic() - begun
        if duplicates != expected:
            raise RuntimeError(f"{way}, {kind}: {duplicates} duplicates instead of {expected}")
        events = BATCH * options.batches
        valkey_us = (usage(pid).cpu_s - valkey) / events * 1e6
        client_us = (usage(os.getpid()).cpu_s - client) / events * 1e6
        found.append(Cost(way, kind, each, valkey_us, client_us, events / took))
        print(found[-1], flush=True)
    return found


async def run(options: argparse.Namespace) -> list[Cost]:
    """Measure both methods."""
    with command.temporary_stack(options.folder) as stack:
        return [*await chunks(stack, options), *await plain_keys(stack, options)]


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-claims", __doc__, "ARGS='--claims 1000000'")
    parser.add_argument("--claims", type=int, default=2_500_000, help="claims of one partition's full window")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    found = asyncio.run(run(options))
    rows = [
        (way, kind, f"{bytes_each:.0f}", f"{valkey_us:.2f}", f"{client_us:.2f}", f"{per_s:,.0f}")
        for way, kind, bytes_each, valkey_us, client_us, per_s in found
    ]
    command.show(["method", "batch", "bytes per claim", "Valkey us", "client us", "events/s"], rows)
    command.save(options.folder, "claims", [each._asdict() for each in found])
    with command.plot(options.folder, "claims", "CPU of one claim, us") as axes:
        names = [f"{each.way}\n{each.kind}" for each in found]
        axes.bar(names, [each.valkey_us for each in found], label="Valkey")
        axes.bar(names, [each.client_us for each in found], bottom=[each.valkey_us for each in found], label="worker")
        axes.legend()


if __name__ == "__main__":
    main()
