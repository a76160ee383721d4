"""Options that several commands share, and how they answer."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The embedded stack's folder. Default: TALLY_DATA_DIR, else .tally"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for machines.")]
Namespace = Annotated[str | None, typer.Option(help="Default: TALLY_NAMESPACE, else default.")]

out = Console()
err = Console(stderr=True)


def answer_json(value: Any) -> None:
    """Print one JSON value on one line."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")


def say(line: str) -> None:
    """A line for the person who watches; never part of an answer."""
    err.print(line, highlight=False, markup=False, soft_wrap=True)
