"""Common parts of the benchmark commands: options, a temporary stack, and results as JSON and PNG."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.embedded.stack import Stack
from runtime.settings import Settings

FOLDER = Path(".tally/bench")


def parser_of(name: str, description: str | None, example: str) -> argparse.ArgumentParser:
    """Return a parser with the common options."""
    parser = argparse.ArgumentParser(
        prog=f"make {name}", description=description, epilog=f"Example: make {name} {example}"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of results and environments")
    return parser


@contextmanager
def temporary_stack(folder: Path) -> Iterator[Stack]:
    """Run a stack without data, and delete it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as data, Stack(Settings(data_dir=Path(data))) as stack:
        yield stack


def named(stack: Stack, name: str, **others: object) -> Settings:
    """Return settings with their own group, database and claims, and their own topic unless in `others`."""
    own = {"topic": name, "group": name, "database": name, "key_prefix": name}
    return stack.settings().model_copy(update=own | others)


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
