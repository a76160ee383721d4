"""`make bench-emit`: `Producer.emit_many` beside aiokafka's `send` and confluent-kafka's `produce`.

All send the same records with acks=all, idempotence and lz4, each in a process of its own, in turn. `emit_many` also
mints the ids and encodes the interactions; the others get encoded records.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path

from benchmarks import command, environments
from benchmarks.emitters import BATCH_BYTES, IN_FLIGHT, records
from deploy.embedded.stack import Stack
from runtime.kafka import create_topics
from runtime.process.children import module_command
from runtime.settings import Settings
from schemas.wire import encode_headers

EMIT, SEND, PRODUCE = "emit_many", "aiokafka send", "confluent-kafka produce"
TIMEOUT_S = 600
WARM_UP_EVENTS = 200_000
"""Events that are sent first and not measured: a new broker takes half as many as one whose code is compiled."""

Figures = dict[str, float]


def own(way: str, settings: Settings, events: int) -> Figures:
    """Measure a way of `benchmarks.emitters`."""
    return _result_of(
        module_command("benchmarks.emitters", way, str(events)), "", os.environ | settings.as_environment()
    )


def produce(folder: Path, settings: Settings, events: int) -> Figures:
    """Measure confluent-kafka. Raises PeerUnavailable."""
    found = environments.prepare("confluent", folder, settings.cache_dir)
    options = {
        "kafka": settings.kafka,
        "topic": settings.topic,
        "events": events,
        "records": [(key.decode(), value.decode()) for key, value in records(settings)],
        "headers": [(name, value.decode()) for name, value in encode_headers(settings.namespace)],
        "in_flight": IN_FLIGHT,
        "batch_bytes": BATCH_BYTES,
    }
    return _result_of([str(found.python), str(found.script)], json.dumps(options) + "\n", dict(os.environ))


def _result_of(arguments: list[str], given: str, environment: dict[str, str]) -> Figures:
    done = subprocess.run(
        arguments, input=given, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-1_000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def measure(options: argparse.Namespace, stack: Stack) -> dict[str, list[Figures]]:
    """Measure all rounds."""
    settings = command.named(stack, "emit", partitions=options.partitions)
    asyncio.run(create_topics(settings))
    found: dict[str, list[Figures]] = {}
    own("send", settings, WARM_UP_EVENTS)
    for number in range(options.rounds):
        turns: dict[str, Callable[[], Figures]] = {
            EMIT: lambda: own("emit_many", settings, options.events),
            SEND: lambda: own("send", settings, options.events),
            PRODUCE: lambda: produce(options.folder, settings, options.events),
        }
        for name, turn in turns.items():
            try:
                figures = turn()
            except environments.PeerUnavailable as error:
                print(f"{name} is skipped: {error}", flush=True)
                continue
            found.setdefault(name, []).append(figures)
            print(
                f"round {number + 1}: {name}: {figures['events_per_s']:,.0f}/s, {figures['cpu_us']:.1f} us", flush=True
            )
    return found


def report(found: dict[str, list[Figures]]) -> None:
    """Print medians, and the ratio of `emit_many` to each other way, pair by pair."""
    rows = []
    for name, rounds in found.items():
        ratios = [mine["events_per_s"] / other["events_per_s"] for mine, other in zip(found[EMIT], rounds, strict=True)]
        rates = sorted(each["events_per_s"] for each in rounds)
        cpu = statistics.median(each["cpu_us"] for each in rounds)
        spread = f"{rates[0]:,.0f} - {rates[-1]:,.0f}"
        rows.append(
            (name, f"{statistics.median(rates):,.0f}", spread, f"{cpu:.1f}", f"{statistics.median(ratios):.2f}")
        )
    command.show(["way", "events/s", "range", "CPU us an event", "emit_many is faster by"], rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-emit", __doc__, "ARGS='--events 500000'")
    parser.add_argument("--events", type=int, default=500_000, help="events of each turn")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with command.temporary_stack(options.folder) as stack:
        found = measure(options, stack)
    report(found)
    command.save(options.folder, "emit", found)


if __name__ == "__main__":
    main()
