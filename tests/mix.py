"""`make mix`: many clients with mixed calls, and the outcome of every event that was answered with 200.

First a client reads its own writes. Then clients send at capacity for a few seconds. Then they send at half of
it for a minute, and again with Kafka stopped (SIGSTOP) for ten seconds. The only errors may be 503 while Kafka is
stopped, every event that got a 200 must have its outcome, and the audit must balance.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import command
from benchmarks.http import READY_S, start_servers
from benchmarks.http_load import Connection, connected, get, open_connection, post
from consumers.supervised import supervised_workers
from deploy.embedded.stack import Stack
from readers.audit import audit
from readers.lookup import Lookups
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import TallyError
from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.process.children import Child
from runtime.settings import Settings
from schemas.outcome import RejectedFor

PATH = "/v1/retrievers/interactions"
PER_BATCH = 20
KEPT_IDS = 500
SETTLED_S = 60.0
CALLS = {"create": 60, "batch": 8, "get": 15, "status": 5, "list": 5, "outcomes": 2, "delete": 5}
"""Share of each call in percent."""
STOPPED_ACK_MS = 3_000
"""Wait of a request while Kafka is stopped."""


@dataclass
class Responses:
    """Responses that clients received."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    took_s: list[float] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    """Young events that a GET did not find, though it waits for them."""

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.statuses.values())

    def wrong(self, allowed: set[int]) -> dict[str, int]:
        """Answers that must not be."""
        return {f"{call} {status}": n for (call, status), n in self.statuses.items() if status not in allowed}


class Client:
    """Client with one connection that sends one request after another."""

    def __init__(self, port: int, key: str, seed: int, seen: Responses) -> None:
        self._port = port
        self._key = {"Authorization": f"Bearer {key}"}
        self._chance = random.Random(seed)
        self._seed = seed
        self._seen = seen
        self._number = 0
        self._ids: list[str] = []

    async def run(self, until: float, every_s: float) -> None:
        """Make a request every `pace_s` seconds, or with 0 one as soon as the one before is answered."""
        connection: Connection | None = None
        due = time.monotonic() + self._chance.random() * every_s
        while (now := time.monotonic()) < until:
            if due > now:
                await asyncio.sleep(due - now)
            due += every_s
            call, raw = self._next()
            begun = time.monotonic()
            try:
                connection = connection or await open_connection(self._port)
                status, body = await connection.request(raw)
            except OSError:
                connection, status, body = None, 0, b""
            self._seen.took_s.append(time.monotonic() - begun)
            self._seen.statuses[call, status] += 1
            self._note(call, status, body)
        if connection is not None:
            connection.close()

    def _next(self) -> tuple[str, bytes]:
        (call,) = self._chance.choices(list(CALLS), list(CALLS.values()))
        known = self._chance.choice(self._ids) if self._ids else f"int_{'0' * 12}7{'0' * 3}8{'0' * 15}"
        match call:
            case "create":
                return call, post(PATH, self._key, json.dumps(self._event()).encode())
            case "batch":
                body = {"interactions": [self._event() for _ in range(PER_BATCH)]}
                return call, post(f"{PATH}/batch", self._key, json.dumps(body).encode())
            case "list":
                return call, post(
                    f"{PATH}/list?limit=20", self._key, json.dumps({"user_id": f"u{self._seed}"}).encode()
                )
            case "outcomes":
                return call, get("/v1/outcomes?limit=20", self._key)
            case "delete":
                if known in self._ids:
                    self._ids.remove(known)
                return call, get(f"{PATH}/{known}", self._key).replace(b"GET", b"DELETE", 1)
        return call, get(f"{PATH}/{known}{'/status' if call == 'status' else ''}", self._key)

    def _event(self) -> dict[str, Any]:
        """Every tenth repeats one of this client's last events."""
        self._number += 1
        number = self._number - self._chance.randrange(1, 20) if self._chance.random() < 0.1 else self._number
        return {
            "feature_id": f"doc-{number % 7}",
            "interaction_type": ["click"],
            "position": number % 20,
            "execution_id": f"exec-{self._seed}-{number}",
            "user_id": f"u{self._seed}",
            "metadata": {"device": "phone"},
        }

    def _note(self, call: str, status: int, body: bytes) -> None:
        # A duplicate of a deleted event is hidden with it.
        if status == 404 and call == "get" and self._ids and json.loads(body)["error"]["code"] != "deleted":
            self._seen.unreadable.append(body.decode())
        if status != 200 or call not in ("create", "batch"):
            return
        answer = json.loads(body)
        if call == "batch":
            found = [each["interaction_id"] for each in answer["results"] if each["status"] == "created"]
        else:
            found = [answer["interaction_id"]] if answer["interaction_id"] else []
        self._seen.accepted.update(found)
        self._ids = (self._ids + found)[-KEPT_IDS:]


async def clients(port: int, key: str, count: int, seconds: float, rate: float, seed: int) -> Responses:
    """Run clients for some seconds at `rate` requests per second in total (0: unlimited)."""
    seen = Responses()
    until, every_s = time.monotonic() + seconds, count / rate if rate else 0.0
    crowd = [Client(port, key, seed * 1_000 + number, seen) for number in range(count)]
    await asyncio.gather(*(client.run(until, every_s) for client in crowd))
    return seen


async def read_own_writes(port: int, key: str, tries: int) -> tuple[list[float], list[bytes]]:
    """Write events and read each at once: durations of both together in ms, and answers other than a record."""
    took_ms, wrong = [], []
    headers = {"Authorization": f"Bearer {key}"}
    async with connected(port, 1) as (connection,):
        for number in range(tries):
            event = {"feature_id": "d", "interaction_type": ["click"], "position": 0, "execution_id": f"own-{number}"}
            begun = time.monotonic()
            _, created = await connection.request(post(PATH, headers, json.dumps(event).encode()))
            interaction_id = json.loads(created)["interaction_id"]
            status, body = await connection.request(get(f"{PATH}/{interaction_id}", headers))
            took_ms.append((time.monotonic() - begun) * 1000)
            if status != 200 or body != created:
                wrong.append(body)
    return sorted(took_ms), wrong


async def problems_of(settings: Settings, database: ClickHouse, seen: Responses, *, kafka_stopped: bool) -> list[str]:
    """Return the problems found once every event has an outcome."""
    problems = []
    allowed = {200, 404, 503} if kafka_stopped else {200, 404}
    if wrong := seen.wrong(allowed):
        problems.append(f"answers: {wrong}")
    if seen.unreadable and not kafka_stopped:
        problems.append(f"{len(seen.unreadable)} events could not be read after a 200: {seen.unreadable[0]}")
    deadline = time.monotonic() + SETTLED_S
    while (
        in_flight := sum([each.in_flight async for each in audit(settings, database)])
    ) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    parts = [each async for each in audit(settings, database)]
    problems += [f"partition {each.partition} does not balance: {each}" for each in parts if not each.balances]
    if in_flight:
        problems.append(f"{in_flight} events are still in flight")
    lookups = Lookups(database, len(seen.accepted) + 1)
    outcomes = await asyncio.gather(*(lookups.get(settings.namespace, each) for each in seen.accepted))
    if lost := [each for each, outcome in zip(seen.accepted, outcomes, strict=True) if outcome is None]:
        problems.append(f"{len(lost)} events got a 200 and are lost: {lost[:5]}")
    if rejected := sum(isinstance(outcome, RejectedFor) for outcome in outcomes):
        problems.append(f"{rejected} events got a 200 and were rejected")
    return problems


@asynccontextmanager
async def running(stack: Stack, settings: Settings, name: str) -> AsyncIterator[tuple[Child, int]]:
    """Two workers and an API process; gives that and its port."""
    workers = supervised_workers(
        stack.children, settings, workers=2, instance_prefix=None, log_dir=settings.data_dir / name
    )
    workers.start()
    try:
        (api,), port = start_servers(stack, name, settings, ["tally.serve", "all", "--port"], "/v1/health", 1)
        try:
            yield api, port
        finally:
            stack.children.stop(api, READY_S)
    finally:
        workers.stop()


async def stopped_for(pid: int, after_s: float, seconds: float) -> None:
    """Stop a process for a while."""
    await asyncio.sleep(after_s)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def summary(name: str, seen: Responses, seconds: float) -> str:
    """Return one line about the responses."""
    seen.took_s.sort()
    by_status = Counter[int]()
    for (_, status), count in seen.statuses.items():
        by_status[status] += count
    p50_ms, p99_ms = statistics.median(seen.took_s) * 1000, seen.took_s[int(len(seen.took_s) * 0.99)] * 1000
    return (
        f"{name}: {seen.requests:,} requests, {seen.requests / seconds:,.0f}/s, {len(seen.accepted):,} events, "
        f"answers {dict(sorted(by_status.items()))}, p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms"
    )


async def run(stack: Stack, settings: Settings, options: argparse.Namespace) -> list[str]:
    """Run all three parts; returns the problems."""
    await create_topics(settings)
    await migrate(settings)
    problems = []
    key, kafka_pid = settings.api_key.get_secret_value(), stack.stack_file().pids.kafka
    async with connect(settings) as database:
        async with running(stack, settings, "api-mix") as (_, port):
            await clients(port, key, options.clients, 1.0, 0, seed=0)
            took_ms, wrong = await read_own_writes(port, key, options.tries)
            p50_ms, p99_ms = statistics.median(took_ms), took_ms[int(len(took_ms) * 0.99)]
            print(f"POST, then GET: {options.tries:,} times, p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms", flush=True)
            problems += [f"a GET after its POST: {body.decode()}" for body in wrong[:5]]
            full = await clients(port, key, options.clients, options.measure, 0, seed=1)
            print(summary("as fast as it goes", full, options.measure), flush=True)
            half = full.requests / options.measure / 2
            seen = await clients(port, key, options.clients, options.seconds, half, seed=2)
            print(summary("half of that", seen, options.seconds), flush=True)
            problems += await problems_of(settings, database, seen, kafka_stopped=False)
        patient = settings.model_copy(update={"collector_ack_ms": STOPPED_ACK_MS})
        async with running(stack, patient, "api-stopped") as (_, port):
            stopping = asyncio.create_task(stopped_for(kafka_pid, options.seconds / 3, options.stopped))
            seen = await clients(port, key, options.clients, options.seconds, half, seed=3)
            await stopping
            print(summary(f"half of that, Kafka stopped for {options.stopped:g} s", seen, options.seconds), flush=True)
            if not any(status == 503 for _, status in seen.statuses):
                problems.append("Kafka was stopped, and no client got a 503")
            problems += await problems_of(patient, database, seen, kafka_stopped=True)
    return problems


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(prog="make mix ARGS=...", description=__doc__.split("\n")[0])
    found.add_argument("--clients", type=int, default=50)
    found.add_argument("--tries", type=int, default=1_000, help="of writing and reading at once")
    found.add_argument("--seconds", type=float, default=60.0)
    found.add_argument("--measure", type=float, default=8.0, help="seconds for the capacity")
    found.add_argument("--stopped", type=float, default=10.0, help="seconds without Kafka")
    found.add_argument("--folder", type=Path, default=Path(".tally/mix"))
    return found


def main() -> None:
    """Run it; exit 1 when anything went wrong."""
    options = parser().parse_args()
    try:
        with command.temporary_stack(options.folder) as stack:
            settings = command.named(stack, "mix").model_copy(update={"rate_limit_per_s": 1_000_000})
            problems = asyncio.run(run(stack, settings, options))
    except TallyError as error:
        sys.exit(f"error: {error}")
    for problem in problems:
        print(f"PROBLEM {problem}")
    print(f"problems: {len(problems)}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
