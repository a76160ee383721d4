"""`make bench-http`: requests per second of the API, beside FastAPI endpoints without any work, in turn.

For each number of connections: rate, latencies, and CPU time of each process a request. Then connections that are idle
between bursts, the time from a POST to the GET that finds it, and the latency beside a crowd of connections.
"""

import argparse
import asyncio
import itertools
import random
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from benchmarks import command, filled_rows, http_extras, topic
from benchmarks.http_load import LoadResult, get, load, post
from benchmarks.meter import Meter
from consumers.supervised import supervised_workers
from deploy.embedded.services import wait_until
from deploy.embedded.stack import Stack
from runtime import ports
from runtime.process.children import Child, module_command
from runtime.settings import Settings

READY_S = 30.0
PATH = "/v1/retrievers/interactions"
PER_BATCH = 1_000
BATCHES = 16
BATCH_CONNECTIONS = 8
WARM_UP_S = 1.0


class Servers(NamedTuple):
    """Server processes on one port."""

    children: list[Child]
    port: int


def start_servers(stack: Stack, name: str, settings: Settings, module: list[str], path: str, count: int) -> Servers:
    """Start `count` server processes on one port (the command's last argument) that serve `path`."""
    port = ports.free_port()
    children = [
        stack.children.start(
            f"{name}-{number}",
            module_command(*module, str(port)),
            log_path=settings.data_dir / f"{name}-{number}.log",
            environment=settings.as_environment(),
        )
        for number in range(count)
    ]
    url = f"http://127.0.0.1:{port}{path}"
    for child in children:
        if not wait_until(partial(ports.responds_to_http, url), partial(_is_running, child), READY_S):
            raise child.failure("did not start")
    return Servers(children, port)


def _is_running(child: Child) -> bool:
    return child.exit_code is None


class Measurement(NamedTuple):
    """Measurement: a request maker, the number of connections, and the events per request."""

    name: str
    servers: Servers
    request: Callable[[], bytes]
    connections: int
    events: int = 1


class Figures(NamedTuple):
    """Load result, and CPU microseconds for each request (or event of a batch) by process."""

    load: LoadResult
    cpu_us: dict[str, float]


class Requests:
    """Makers of requests, with a valid key. Rate limits are on, but out of reach."""

    def __init__(self, options: argparse.Namespace, settings: Settings) -> None:
        self._chance, self._numbers = random.Random(options.seed), itertools.count()
        self._seed, self._rows = options.seed, options.rows
        self.headers = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}
        # Built beforehand: making 1,000 events takes as long as a few requests.
        self._batches = itertools.cycle([self._batch() for _ in range(BATCHES)])
        self.nothing, self.echo = get("/x", self.headers), post("/x", self.headers, self.event())

    def event(self) -> bytes:
        """Return an event that was not made before."""
        value, _ = topic.value_of(topic.key_fields_of(next(self._numbers), self._seed), self._chance)
        return value[: value.rindex(b',"interaction_id"')] + b"}"

    def create(self) -> bytes:
        """Return a create request."""
        return post(PATH, self.headers, self.event())

    def by_id(self) -> bytes:
        """Return a get request of any stored row."""
        return get(f"{PATH}/{filled_rows.id_of(self._chance.randrange(self._rows))}", self.headers)

    def batch(self) -> bytes:
        """Return a batch request."""
        return next(self._batches)

    def _batch(self) -> bytes:
        events = b",".join(self.event() for _ in range(PER_BATCH))
        return post(f"{PATH}/batch", self.headers, b'{"interactions":[%b]}' % events)


def measurements_of(options: argparse.Namespace, requests: Requests, api: Servers, bare: Servers) -> list[Measurement]:
    """Return the measurements of a round."""
    each = []
    for count in options.connections:
        each += [
            Measurement("a bare GET", bare, lambda: requests.nothing, count),
            Measurement("get by id", api, requests.by_id, count),
            Measurement("a bare POST", bare, lambda: requests.echo, count),
            Measurement("create", api, requests.create, count),
        ]
    each.append(Measurement(f"batch of {PER_BATCH:,}", api, requests.batch, BATCH_CONNECTIONS, PER_BATCH))
    return [m for m in each if not options.only or any(word.lower() in m.name.lower() for word in options.only)]


async def measure(turn: Measurement, stack: Stack, seconds: float) -> Figures:
    """Measure one turn, after a short warm-up."""
    await load(turn.servers.port, turn.request, connections=turn.connections, seconds=WARM_UP_S)
    stores = {name: [stack.pid(name)] for name in ("kafka", "redis", "clickhouse")}
    meter = Meter({"server": [child.pid for child in turn.servers.children], **stores})
    meter.start()
    found = await load(turn.servers.port, turn.request, connections=turn.connections, seconds=seconds)
    events = found.per_s * seconds * turn.events
    cpu_us = {name: spent / events * 1e6 for name, spent in meter.cpu_s().items()}
    return Figures(found._replace(per_s=found.per_s * turn.events), cpu_us)


Round = dict[tuple[str, int], Figures]


async def run(options: argparse.Namespace) -> tuple[list[Round], dict[str, object]]:
    """Measure all rounds, and what is measured once after them."""
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "http").model_copy(update={"rate_limit_per_s": 1_000_000})
        async with command.installed(settings) as database, AsyncExitStack() as ending:
            await filled_rows.fill(database, 0, options.rows)
            bare = start_servers(stack, "bare", settings, ["benchmarks.bare"], "/x", 1)
            api_command = ["tally.serve", "all", "--port"]
            api = start_servers(stack, "api", settings, api_command, "/v1/health", options.processes)
            ending.callback(stack.children.stop_all, [*bare.children, *api.children], READY_S)
            requests, rounds = Requests(options, settings), list[Round]()
            for number in range(options.rounds):
                found: Round = {}
                for turn in measurements_of(options, requests, api, bare):
                    figures = found[turn.name, turn.connections] = await measure(turn, stack, options.seconds)
                    print(
                        f"round {number + 1}, {turn.connections} connections: {turn.name}: {figures.load}", flush=True
                    )
                rounds.append(found)
            extras: dict[str, object] = {}
            if options.idle_seconds:
                extras["idle"] = await http_extras.idle_between_bursts(api.port, requests.create, options.idle_seconds)
            if options.freshness:
                workers = supervised_workers(
                    stack.children, settings, workers=1, instance_prefix=None, log_dir=settings.data_dir
                )
                workers.start()
                extras["freshness"] = await http_extras.post_to_get(api.port, requests.headers, requests.event)
                workers.stop()
            if options.crowd:
                extras["crowd"] = await http_extras.beside_a_crowd(api.port, api.children[0].pid, requests.create)
            return rounds, extras


def report(rounds: list[Round]) -> None:
    """Print the table: medians of the rounds, and the median ratio to the bare endpoint's rate per round."""
    rows = []
    for name, count in rounds[0]:
        figures = [each[name, count] for each in rounds]
        bare = "a bare GET" if "get" in name.lower() else "a bare POST"
        shares = [
            each[name, count].load.per_s / each[bare, count].load.per_s for each in rounds if (bare, count) in each
        ]
        medians = [statistics.median(each.load[at] for each in figures) for at in range(3)]
        cpu = {process: statistics.median(each.cpu_us[process] for each in figures) for process in figures[0].cpu_us}
        rows.append(
            (
                name,
                str(count),
                f"{medians[0]:,.0f}",
                f"{statistics.median(shares):.2f}" if shares else "-",
                f"{medians[1]:.2f}",
                f"{medians[2]:.1f}",
                " ".join(f"{process} {spent:,.0f}" for process, spent in cpu.items() if spent >= 1),
                str(sum(each.load.failed for each in figures)),
            )
        )
    columns = ["request", "connections", "per second", "of bare", "p50 ms", "p99 ms", "CPU us", "failed"]
    command.show(columns, rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-http", __doc__, "ARGS='--connections 64 --only create POST'")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the table; ids are requested uniformly")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--processes", type=int, default=1, help="API processes on one port")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of each measurement")
    parser.add_argument("--only", nargs="*", help="measurements whose names contain one of these words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--idle-seconds", type=float, default=0, help="pause between two bursts on the same connections"
    )
    parser.add_argument("--freshness", action="store_true", help="time from a POST to the GET that finds it")
    parser.add_argument("--crowd", action="store_true", help="latency beside 5,000 idle and 500 slow connections")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rounds, extras = asyncio.run(run(options))
    report(rounds)
    for name, found in extras.items():
        print(f"{name}: {found}")
    rows = [{f"{name}, {count}": each._asdict() for (name, count), each in found.items()} for found in rounds]
    command.save(options.folder, "http", {"rounds": rows, **extras})
    with command.plot(options.folder, "http", "Requests per second, each round") as axes:
        for number, found in enumerate(rounds):
            labels = [f"{name}\n{count}" for name, count in found]
            axes.plot(labels, [each.load.per_s for each in found.values()], "o", label=f"{number + 1}")
        axes.set(ylim=(0, None), yscale="symlog")
        axes.tick_params(axis="x", rotation=60)
        axes.legend(title="round")


if __name__ == "__main__":
    main()
