"""Viewers beside workers that drain a topic at full speed: drains alone and with viewers, in turn."""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from benchmarks import command, topic
from benchmarks.command import percentiles_of
from benchmarks.console_looks import Looks, follow, watch
from benchmarks.console_web import Website, load_page, website
from benchmarks.meter import Meter
from benchmarks.systems import Tally
from benchmarks.throughput import measure as measure_drain
from console.settings import ConsoleSettings
from deploy.embedded.stack import Stack
from runtime import kafka
from runtime.redis import connect_redis
from runtime.settings import Settings
from runtime.tasks import cancel_and_wait

KINDS = ("alone", "viewers")
PARTITIONS = 8
LIVE_EVERY_S = ConsoleSettings.model_fields["live_every_ms"].default / 1000
REFRESH_EVERY_S = ConsoleSettings.model_fields["refresh_every_ms"].default / 1000
ACCOUNT = "/account"
"""Panel that a page loads once."""


class Drain(NamedTuple):
    """One drain of the topic."""

    kind: str
    rate: float
    """Events per second."""
    cpu_us: dict[str, float]
    """CPU microseconds per event, by process."""
    cores: dict[str, float]
    """CPU of console, API and ClickHouse, and of the viewers themselves, in cores."""
    live: dict[str, Any] | None
    panels: dict[str, Any] | None
    """Requests of the viewers of live events, and of the overview's panels."""
    remark: str


def _summary(looks: Looks, seconds: float) -> dict[str, Any] | None:
    if not looks.took_ms:
        return None
    times = percentiles_of(looks.took_ms)._asdict()
    per_s = len(looks.took_ms) / seconds
    return {
        "per_s": per_s,
        "ms": times,
        "failed": looks.failed,
        "errors": looks.errors,
        "counted": looks.counts.total(),
    }


@asynccontextmanager
async def _viewing(site: Website, viewers: int, live: Looks, panels: Looks) -> AsyncIterator[None]:
    """Let viewers look until the block ends: half of them at live events, the others at the overview."""
    _, paths = await load_page(site, "/")
    refreshed = [path for path in paths if not path.startswith(ACCOUNT)]
    tasks = []
    for number in range(viewers):
        share = number / viewers  # viewers do not begin together
        if number % 2 == 0:
            tasks.append(asyncio.create_task(follow(site, live, LIVE_EVERY_S, offset_s=share * LIVE_EVERY_S)))
        else:
            offset_s = share * REFRESH_EVERY_S
            tasks.append(asyncio.create_task(watch(site, panels, refreshed, REFRESH_EVERY_S, offset_s=offset_s)))
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await cancel_and_wait(*tasks)


async def _drain(stack: Stack, common: Settings, name: str, kind: str, options: argparse.Namespace) -> Drain:
    settings = command.named(stack, name, topic=common.topic, partitions=common.partitions)
    live, panels = Looks(), Looks()
    async with AsyncExitStack() as opened:
        database = await opened.enter_async_context(command.installed(settings))
        redis = await opened.enter_async_context(connect_redis(settings))
        opened.push_async_callback(redis.flushall)
        site = await opened.enter_async_context(website(stack, settings))
        system = Tally(stack, settings, database, options.workers, options.events)
        meter = Meter(
            {
                "console": [site.console.pid],
                "API": [site.api.pid],
                "ClickHouse": [stack.pid("clickhouse")],
                "viewers": [os.getpid()],
            }
        )
        meter.start()
        begun = time.monotonic()
        if kind == "viewers":
            async with _viewing(site, options.viewers, live, panels):
                run = await measure_drain(stack, system)
        else:
            run = await measure_drain(stack, system)
        seconds = time.monotonic() - begun
        cores = {process: cpu_s / seconds for process, cpu_s in meter.cpu_s().items()}
        return Drain(kind, run.rate, run.cpu_us, cores, _summary(live, seconds), _summary(panels, seconds), run.remark)


async def measure(stack: Stack, options: argparse.Namespace) -> list[list[Drain]]:
    """Measure all rounds."""
    common = stack.settings().model_copy(update={"topic": "viewers", "partitions": PARTITIONS})
    await kafka.create_topics(common)
    await topic.fill(common, options.events, 1)
    rounds = []
    for number in range(options.rounds):
        drains = []
        for kind in KINDS if number % 2 == 0 else reversed(KINDS):
            found = await _drain(stack, common, f"viewers{number}{kind}", kind, options)
            print(f"round {number + 1}: {kind}: {found.rate:,.0f} events/s; cores {_in_cores(found)}", flush=True)
            for name, looks in (("live events", found.live), ("panels", found.panels)):
                if looks:
                    print(f"    {name}: {looks}", flush=True)
            drains.append(found)
        rounds.append(drains)
    return rounds


def _in_cores(found: Drain) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in found.cores.items())


def report(rounds: Sequence[Sequence[Drain]]) -> dict[str, float]:
    """Print the table; return the median ratios with viewers to alone, of the same round."""
    rows, ratios = [], {"events": list[float](), "worker's CPU": list[float]()}
    for number, drains in enumerate(rounds, 1):
        by_kind = {each.kind: each for each in drains}
        alone, beside = by_kind["alone"], by_kind["viewers"]
        ratios["events"].append(beside.rate / alone.rate)
        ratios["worker's CPU"].append(beside.cpu_us["worker"] / alone.cpu_us["worker"])
        for each in (alone, beside):
            looks = [_said(some) for some in (each.live, each.panels)]
            rows.append((str(number), each.kind, f"{each.rate:,.0f}", _in_cores(each), *looks))
    columns = ["round", "kind", "events/s", "cores", "live events: /s, p50, p99 ms, failed", "panels"]
    command.show(columns, rows)
    medians = {name: statistics.median(values) for name, values in ratios.items()}
    print("ratio with viewers: " + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()))
    return medians


def _said(looks: dict[str, Any] | None) -> str:
    if looks is None:
        return ""
    return f"{looks['per_s']:.1f}, {looks['ms']['p50']:.0f}, {looks['ms']['p99']:.0f}, {looks['failed']}"
