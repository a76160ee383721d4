"""Options that several commands share, and how they answer."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.event_time import iso_ms, parse_time_or_day
from schemas.wire import check_namespace
from tally.cli.output import answers

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data directory of the embedded stack. Default: TALLY_DATA_DIR, else .tally"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def answer_json(value: Any) -> None:
    """Print one JSON value on one line."""
    answers.write(json.dumps(value, default=_plain) + "\n")


def _plain(value: object) -> str:
    return iso_ms(value) if isinstance(value, datetime) else str(value)


def parse_time(text: str | None) -> datetime | None:
    """A time option: ISO 8601; without an offset UTC, a date alone is its midnight."""
    if text is None:
        return None
    try:
        return parse_time_or_day(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}; write 2026-11-22T14:30:00Z or 2026-11-22") from None


def parse_range(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Two time options that name a range; the end is not part of it."""
    begin, end = parse_time(since), parse_time(until)
    if begin is not None and end is not None and begin >= end:
        raise typer.BadParameter(f"the range ends at {until}, before it begins at {since}")
    return begin, end


def checked_namespace(value: str | None) -> str | None:
    """A namespace option, as records may carry it."""
    try:
        return value if value is None else check_namespace(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Namespace = Annotated[
    str | None, typer.Option(help="Namespace. Default: TALLY_NAMESPACE, else default.", callback=checked_namespace)
]
