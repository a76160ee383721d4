"""`make bench-http`: requests a second of the API, beside a FastAPI endpoint that does nothing, in turn."""

import argparse
import asyncio
import random
import statistics
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from benchmarks import command, filled_rows
from benchmarks.http_load import Served, get, load
from deploy.embedded.parts import wait_until
from deploy.embedded.stack import Stack
from runtime import ports
from runtime.children import Child
from runtime.clickhouse import connect
from runtime.migrate import migrate
from runtime.settings import Settings

READY_S = 30.0

Round = dict[str, Served]


def started(stack: Stack, name: str, settings: Settings, module: list[str], path: str) -> tuple[Child, int]:
    """A server in a process of its own, and its port (the command's last argument), once it answers at `path`."""
    port = ports.free_port()
    child = stack.children.start(
        name,
        [sys.executable, "-m", *module, str(port)],
        log_path=settings.data_dir / f"{name}.log",
        environment=settings.as_environment(),
    )
    url = f"http://127.0.0.1:{port}{path}"
    if not wait_until(lambda: ports.http_answers(url), lambda: child.exit_code is None, READY_S):
        raise child.failure("did not start")
    return child, port


async def run(options: argparse.Namespace) -> list[Round]:
    """All rounds."""
    chance = random.Random(options.seed)
    with command.temporary_stack(options.folder) as stack:
        settings = command.named(stack, "http")
        await migrate(settings)
        async with connect(settings) as database:
            await filled_rows.fill(database, 0, options.rows)
        bare, bare_port = started(stack, "bare", settings, ["benchmarks.bare"], "/x")
        reader, reader_port = started(stack, "reader", settings, ["readers.serve", "--port"], "/v1/health")
        authorization = {"Authorization": f"Bearer {settings.api_key.get_secret_value()}"}

        def by_id() -> bytes:
            wanted = filled_rows.id_of(chance.randrange(options.rows))
            return get(f"/v1/retrievers/interactions/{wanted}", authorization)

        nothing = get("/x", authorization)
        turns: list[tuple[str, int, Callable[[], bytes]]] = [
            ("a bare endpoint", bare_port, lambda: nothing),
            ("get by id", reader_port, by_id),
        ]
        rounds = []
        for number in range(options.rounds):
            found = {}
            for name, port, request in turns:
                found[name] = await load(port, request, connections=options.connections, seconds=options.seconds)
                print(f"round {number + 1}: {name}: {found[name]}", flush=True)
            rounds.append(found)
        stack.children.stop_all([bare, reader], READY_S)
    return rounds


def report(rounds: list[Round]) -> None:
    """The table: medians of the rounds, and how many bare requests one costs, pair by pair."""
    table = Table("request", "a second", "p50 ms", "p99 ms", "of the bare endpoint's rate")
    for name in rounds[0]:
        share = statistics.median(each[name].per_s / each["a bare endpoint"].per_s for each in rounds)
        medians = [statistics.median(each[name][at] for each in rounds) for at in range(3)]
        table.add_row(name, f"{medians[0]:,.0f}", f"{medians[1]:.1f}", f"{medians[2]:.1f}", f"{share:.2f}")
    Console(width=120).print(table)


def main() -> None:
    """Run the benchmark."""
    parser = command.parser_of("bench-http", __doc__, "ARGS='--connections 16'")
    parser.add_argument("--rows", type=int, default=1_000_000, help="in the table; ids are asked for uniformly")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rounds = asyncio.run(run(options))
    report(rounds)
    command.save(options.folder, "http", [{name: each._asdict() for name, each in found.items()} for found in rounds])
    with command.plot(options.folder, "http", "Requests a second, each round") as axes:
        for number, found in enumerate(rounds):
            axes.plot(list(found), [each.per_s for each in found.values()], "o", label=f"{number + 1}")
        axes.set(ylim=(0, None))
        axes.legend(title="round")


if __name__ == "__main__":
    main()
