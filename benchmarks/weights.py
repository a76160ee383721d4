"""`make bench-weights`: weights of a search, as multiples of a FastAPI endpoint without any work.

At a fixed rate (open loop) and as fast as possible (closed loop), alone and while workers drain a full topic. Then the
time from sending a click to the answer with changed weights, for sessions of one click each.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from benchmarks import command, topic
from benchmarks.command import Percentiles, percentiles_of
from benchmarks.http import READY_S, Servers, start_servers
from benchmarks.http_load import LoadResult, at_rate, connected, get, load, post
from benchmarks.lookup import start_workers
from benchmarks.systems import Tally
from deploy.embedded.stack import Stack
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_CONFIGS, LEARNING_COUNTS, LEARNING_DAYS

RETRIEVER = "dense"
FEATURES = ("tally://text@v1/embedding", "tally://image@v1/embedding", "tally://title@v1/embedding")
CONNECTIONS = 64
WARM_UP_S = 3.0
"""Seconds in which the contexts of the users are read for the first time."""
SESSION_TIMEOUT_S = 10.0
PATH = f"/v1/retrievers/{RETRIEVER}/weights"
CREATE = "/v1/retrievers/interactions"

_USERS = f"""
INSERT INTO {LEARNING_COUNTS}
SELECT 'default', '{RETRIEVER}', 'personal', concat('user-', toString(number % {{users:UInt32}})),
    today() - number % 30, 1, {list(FEATURES)}[1 + number % 3], [1, 3], [1, 1], 1
FROM numbers({{users:UInt32}} * 12)
"""
_ALL = f"""
INSERT INTO {LEARNING_COUNTS}
SELECT 'default', '{RETRIEVER}', 'global', '', today() - number % 365, 1, {list(FEATURES)}[1 + number % 3],
    [1, 3], [1, 1 + intDiv(number, 1095)], 100
FROM numbers(1095 * 50)
"""
_DAYS = f"INSERT INTO {LEARNING_DAYS} SELECT 'default', '{RETRIEVER}', today() - number, 1 FROM numbers(365)"


class Figures(NamedTuple):
    """Load of one kind of request, alone or beside the workers."""

    name: str
    is_beside: bool
    closed: LoadResult
    open: LoadResult


class Requests:
    """Makers of requests with a valid key."""

    def __init__(self, settings: Settings, users: int) -> None:
        self._chance, self._users = random.Random(1), users
        self.headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
        self.nothing = get("/x", self.headers)

    def weights(self) -> bytes:
        """Return a request for the weights of any user."""
        user = self._chance.randrange(self._users)
        names = ",".join(FEATURES)
        return get(f"{PATH}?user_id=user-{user}&execution_id=e-{user}&feature_uris={names}", self.headers)

    def session_weights(self, session: str) -> bytes:
        """Return a request for the weights in a session."""
        return get(f"{PATH}?session_id={session}&mean=true&feature_uris={FEATURES[0]}", self.headers)

    def click(self, session: str) -> bytes:
        """Return a click in a session."""
        event = {"feature_id": "doc-1", "interaction_type": ["click"], "position": 0, "feature_uri": FEATURES[0]}
        event |= {"execution_id": session, "session_id": session, "retriever_id": RETRIEVER}
        return post(CREATE, self.headers, json.dumps(event).encode())


async def learn(database: ClickHouse, users: int) -> None:
    """Store a learning configuration, and counts of users and of a year."""
    config = LearningConfig().model_dump_json()
    row = {
        "namespace": "default",
        "retriever_id": RETRIEVER,
        "version": 1,
        "config": config,
        "changed_at": "2026-01-01",
    }
    await database.insert_row(LEARNING_CONFIGS, row, "bench")
    await database.command(_USERS, {"users": users})
    await database.command(_ALL)
    await database.command(_DAYS)


async def measure(
    bare: Servers, api: Servers, requests: Requests, options: argparse.Namespace, *, is_beside: bool
) -> list[Figures]:
    """Measure both kinds of request in turn."""
    makers: list[tuple[str, Servers, Callable[[], bytes]]] = [
        ("a bare GET", bare, lambda: requests.nothing),
        ("weights", api, requests.weights),
    ]
    found = []
    for name, servers, make in makers:
        closed = await load(servers.port, make, connections=CONNECTIONS, seconds=options.seconds)
        opened = await at_rate(servers.port, make, options.rate, connections=CONNECTIONS, seconds=options.seconds)
        found.append(Figures(name, is_beside, closed, opened))
        print(found[-1], flush=True)
    return found


async def click_to_weights(port: int, requests: Requests, sessions: int) -> Percentiles | None:
    """Return the milliseconds from sending a click to weights that it changed, or None if it changes none."""
    took = []
    async with connected(port, 1) as (connection,):
        for number in range(sessions):
            session, begun = f"visit-{number}", time.monotonic()
            await connection.request(requests.click(session))
            try:
                async with asyncio.timeout(SESSION_TIMEOUT_S):
                    while b'"session":true' not in (await connection.request(requests.session_weights(session)))[1]:
                        await asyncio.sleep(0)
            except TimeoutError:
                return None
            took.append((time.monotonic() - begun) * 1000)
    return percentiles_of(took)


@asynccontextmanager
async def workers(stack: Stack, settings: Settings, database: ClickHouse) -> AsyncIterator[Tally]:
    """Run two workers until the block ends."""
    system = Tally(stack, settings, database, 2, 0)
    await start_workers(system, settings)
    try:
        yield system
    finally:
        print(await system.stop(), flush=True)


async def run(options: argparse.Namespace) -> tuple[list[Figures], Percentiles | None]:
    """Measure everything on one stack."""
    with command.temporary_stack(options.folder) as stack:
        # The counts of the benchmark are of no stored events: a count would empty them.
        own = {"rate_limit_per_s": 1_000_000, "aggregates_every_ms": 86_400_000}
        settings = command.named(stack, "weights").model_copy(update=own)
        async with command.installed(settings) as database, AsyncExitStack() as ending:
            await learn(database, options.users)
            bare = start_servers(stack, "bare", settings, ["benchmarks.bare"], "/x", 1)
            api = start_servers(stack, "api", settings, ["tally.serve", "all", "--port"], "/v1/health", 1)
            ending.callback(stack.children.stop_all, [*bare.children, *api.children], READY_S)
            requests = Requests(settings, options.users)
            await load(api.port, requests.weights, connections=CONNECTIONS, seconds=WARM_UP_S)
            found = await measure(bare, api, requests, options, is_beside=False)
            if options.events:
                await topic.fill(settings, options.events, 1)
            async with workers(stack, settings, database) as system:
                if options.events:
                    found += await measure(bare, api, requests, options, is_beside=True)
                    if await system.done() >= options.events:
                        print("the workers had drained the topic before the end: choose more --events", flush=True)
                    while await system.done() < options.events:
                        await asyncio.sleep(1)
                clicks = await click_to_weights(api.port, requests, options.sessions) if options.sessions else None
            return found, clicks


def report(found: list[Figures], rate: float) -> None:
    """Print the table; multiples are those of the bare GET in the same state."""
    rows = []
    for each in found:
        bare = next(other for other in found if other.is_beside == each.is_beside)
        for loop, load_of, bare_of in (("closed", each.closed, bare.closed), (f"{rate:,.0f}/s", each.open, bare.open)):
            rows.append(
                (
                    *(each.name, "a full topic" if each.is_beside else "nothing", loop),
                    *(f"{load_of.per_s:,.0f}", f"{load_of.per_s / bare_of.per_s:.2f}"),
                    *(f"{load_of.p50_ms:.2f}", f"{load_of.p50_ms / bare_of.p50_ms:.2f}"),
                    *(f"{load_of.p99_ms:.2f}", f"{load_of.p99_ms / bare_of.p99_ms:.2f}", str(load_of.failed)),
                )
            )
    columns = ["request", "beside", "loop", "per second", "of bare", "p50 ms", "of bare", "p99 ms", "of bare", "failed"]
    command.show(columns, rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-weights", __doc__, "ARGS='--seconds 5 --sessions 50'")
    parser.add_argument("--rate", type=command.at_least(1, float), default=1_000, help="requests per second, open loop")
    parser.add_argument("--seconds", type=command.at_least(1, float), default=10, help="seconds of each measurement")
    parser.add_argument("--users", type=command.at_least(1, int), default=10_000, help="users with counts of their own")
    parser.add_argument(
        "--events",
        type=command.at_least(0, int),
        default=4_000_000,
        help="events drained meanwhile; 0: none",
    )
    parser.add_argument("--sessions", type=command.at_least(0, int), default=200, help="clicks that change weights")
    options = parser.parse_args()
    found, clicks = asyncio.run(run(options))
    report(found, options.rate)
    if clicks:
        print(
            f"click to changed weights: p50 {clicks.p50:.0f} ms, p99 {clicks.p99:.0f} ms ({options.sessions} sessions)"
        )
    elif options.sessions:
        print("click to changed weights: no click changed weights: session signals are not served")
    rows = [{**each._asdict(), "closed": each.closed._asdict(), "open": each.open._asdict()} for each in found]
    command.save(options.folder, "weights", {"loads": rows, "clicks": clicks and clicks._asdict()})
    with command.plot(options.folder, "weights", f"Latency at {options.rate:,.0f} requests per second") as axes:
        labels = [f"{each.name}\n{'beside workers' if each.is_beside else 'alone'}" for each in found]
        axes.plot(labels, [each.open.p50_ms for each in found], "o", label="p50")
        axes.plot(labels, [each.open.p99_ms for each in found], "o", label="p99")
        axes.set(ylabel="ms", ylim=(0, None))
        axes.legend()


if __name__ == "__main__":
    main()
