"""`make bench-http`: requests per second of the API, and of a FastAPI endpoint without any work, in turn."""

import argparse
import asyncio
import itertools
import random
import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks import command, filled_rows, topic
from benchmarks.http_load import LoadResult, get, load, post
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

Round = dict[str, LoadResult]


def start_server(stack: Stack, name: str, settings: Settings, module: list[str], path: str) -> tuple[Child, int]:
    """Start a server process, and return it and its port (the command's last argument) once it serves `path`."""
    port = ports.free_port()
    child = stack.children.start(
        name,
        module_command(*module, str(port)),
        log_path=settings.data_dir / f"{name}.log",
        environment=settings.as_environment(),
    )
    url = f"http://127.0.0.1:{port}{path}"
    if not wait_until(lambda: ports.responds_to_http(url), lambda: child.exit_code is None, READY_S):
        raise child.failure("did not start")
    return child, port


class Measurement(NamedTuple):
    """Measurement: a request maker, the number of connections, and the events per request."""

    name: str
    port: int
    request: Callable[[], bytes]
    connections: int
    events: int = 1


def requests_of(options: argparse.Namespace, settings: Settings, api: int, bare: int) -> list[Measurement]:
    """Return the measurements of a round. Rate limits are on, but out of reach."""
    chance, numbers = random.Random(options.seed), itertools.count()
    authorization = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}

    def event() -> bytes:
        value, _ = topic.value_of(topic.key_fields_of(next(numbers), options.seed), chance)
        return value[: value.rindex(b',"interaction_id"')] + b"}"

    def by_id() -> bytes:
        wanted = filled_rows.id_of(chance.randrange(options.rows))
        return get(f"{PATH}/{wanted}", authorization)

    def batch() -> bytes:
        events = b",".join(event() for _ in range(PER_BATCH))
        return post(f"{PATH}/batch", authorization, b'{"interactions":[%b]}' % events)

    # Built beforehand: making 1,000 events takes as long as a few requests.
    batches = itertools.cycle([batch() for _ in range(BATCHES)])
    nothing, echo = get("/x", authorization), post("/x", authorization, event())
    return [
        Measurement("a bare GET", bare, lambda: nothing, options.connections),
        Measurement("a bare POST", bare, lambda: echo, options.connections),
        Measurement("get by id", api, by_id, options.connections),
        Measurement("create", api, lambda: post(PATH, authorization, event()), options.connections),
        Measurement("batch of 1,000", api, lambda: next(batches), BATCH_CONNECTIONS, PER_BATCH),
    ]


async def run(options: argparse.Namespace) -> list[Round]:
    """Measure all rounds."""
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "http").model_copy(update={"rate_limit_per_s": 1_000_000})
        async with command.installed(settings) as database:
            await filled_rows.fill(database, 0, options.rows)
            bare, bare_port = start_server(stack, "bare", settings, ["benchmarks.bare"], "/x")
            api, api_port = start_server(stack, "api", settings, ["tally.serve", "all", "--port"], "/v1/health")
            rounds = []
            for number in range(options.rounds):
                found = {}
                for turn in requests_of(options, settings, api_port, bare_port):
                    if options.only and not any(word in turn.name for word in options.only):
                        continue
                    served = await load(turn.port, turn.request, connections=turn.connections, seconds=options.seconds)
                    found[turn.name] = served._replace(per_s=served.per_s * turn.events)
                    print(f"round {number + 1}: {turn.name}: {found[turn.name]}", flush=True)
                rounds.append(found)
            stack.children.stop_all([bare, api], READY_S)
    return rounds


def report(rounds: list[Round]) -> None:
    """Print the table: medians of the rounds, and the median ratio to the bare endpoint's rate per round."""
    rows = []
    for name in rounds[0]:
        bare = "a bare GET" if "get" in name.lower() else "a bare POST"
        medians = [statistics.median(each[name][at] for each in rounds) for at in range(3)]
        shares = [each[name].per_s / each[bare].per_s for each in rounds if bare in each]
        share = f"{statistics.median(shares):.2f}" if shares else "-"
        rows.append((name, f"{medians[0]:,.0f}", f"{medians[1]:.1f}", f"{medians[2]:.1f}", share))
    command.show(["request", "per second", "p50 ms", "p99 ms", "of the bare endpoint's rate"], rows)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-http", __doc__, "ARGS='--connections 16'")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the table; ids are requested uniformly")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", nargs="*", help="measurements whose names contain one of these words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rounds = asyncio.run(run(options))
    report(rounds)
    command.save(options.folder, "http", [{name: each._asdict() for name, each in found.items()} for found in rounds])
    with command.plot(options.folder, "http", "Requests per second, each round") as axes:
        for number, found in enumerate(rounds):
            axes.plot(list(found), [each.per_s for each in found.values()], "o", label=f"{number + 1}")
        axes.set(ylim=(0, None))
        axes.legend(title="round")


if __name__ == "__main__":
    main()
