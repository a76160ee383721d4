"""Common parts of the benchmark commands: options, a temporary stack, and results as table, JSON and PNG."""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from deploy.embedded.stack import Stack
from runtime.clickhouse import ClickHouse, connect
from runtime.kafka import create_topics
from runtime.migrate import migrate
from runtime.settings import Settings

Number = TypeVar("Number", int, float)

FOLDER = Path(".tally/bench")


class Percentiles(NamedTuple):
    """Median and 99th percentile."""

    p50: float
    p99: float


def percentiles_of(values: Iterable[float]) -> Percentiles:
    """Return the percentiles of at least one value, in its unit."""
    ordered = sorted(values)
    return Percentiles(statistics.median(ordered), ordered[int(len(ordered) * 0.99)])


def parser_of(name: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Return a parser with the common options."""
    parser = argparse.ArgumentParser(
        prog=f"make {name}", description=description, epilog=f"Example: make {name} {example}"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of results and environments")
    return parser


def at_least(least: float, kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """Return a parser of numbers from `least` on. It raises ValueError, which argparse reports."""

    def number(text: str) -> Number:
        value = kind(text)
        if not least <= value < math.inf:
            raise ValueError
        return value

    number.__name__ = f"number of at least {least}"  # argparse names it in its error
    return number


@contextmanager
def temporary_stack(folder: Path) -> Iterator[Stack]:
    """Run a stack without data, and delete it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as data, Stack(Settings(data_dir=Path(data))) as stack:
        yield stack


def named(stack: Stack, name: str, **others: object) -> Settings:
    """Return settings with their own group, database and claims, and their own topic unless in `others`.

    Generated rows are years old, and must not be recompressed meanwhile.
    """
    own = {"topic": name, "group": name, "database": name, "key_prefix": name, "recompress_days": 0}
    return stack.settings().model_copy(update=own | others)


@asynccontextmanager
async def installed(settings: Settings) -> AsyncIterator[ClickHouse]:
    """Create topics and tables, connect to the database, and drop it at the end."""
    await create_topics(settings)
    await migrate(settings)
    async with connect(settings) as database:
        try:
            yield database
        finally:
            await database.command(f"DROP DATABASE {settings.database} SYNC")


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)


def save(folder: Path, name: str, found: object) -> None:
    """Write results as `name`.json."""
    (folder / f"{name}.json").write_text(json.dumps(found, indent=2))


@contextmanager
def plot(folder: Path, name: str, title: str) -> Iterator[Axes]:
    """Yield axes, and write them as `name`.png."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    yield axes
    figure.savefig(folder / f"{name}.png", dpi=120)
