"""Common parts of commands: options, optional dependencies, and the JSON form of answers."""

import json
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec

import typer

from runtime.errors import TallyError
from schemas.event_time import iso_ms, parse_time_or_day
from tally.cli.output import answers

if TYPE_CHECKING:
    from readers.filters import Group
    from runtime.settings import Settings

Extra = Literal["worker", "learning", "api", "embedded", "plot"]
Parameters = ParamSpec("Parameters")

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data directory of the embedded stack. Default: TALLY_DATA_DIR, else .tally"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Since = Annotated[str | None, typer.Option("--from", help="Only records appended at this time or later.")]
Until = Annotated[str | None, typer.Option("--to", help="Only records appended before this time.")]

Where = Annotated[
    list[str] | None,
    typer.Option(
        help="Condition: field=value (or != < <= > >=), or filters of the list call as JSON. Repeatable; all must "
        'hold, so one of several values is JSON: \'{"user_id": ["ada", "bob"]}\'.'
    ),
]


class MissingExtra(TallyError):
    """A package of an optional dependency group is not installed. The message names the command that installs it."""

    exit_code = 2


def needs(extra: Extra) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Decorate a command that needs an extra: raise MissingExtra where an import finds a package missing."""

    def decorate(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
        @wraps(command)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            try:
                command(*args, **kwargs)
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if not package or find_spec(package):  # a module is missing in a package that is installed: a defect
                    raise
                raise MissingExtra(
                    f'this command needs {package}, which is not installed: pip install "tally-server[{extra}]"'
                ) from error

        return run

    return decorate


def load_settings(data_dir: Path | None, *needed: str) -> "Settings":
    """Load the settings of a command. Raises SettingsError when one of `needed` has no value."""
    from runtime.settings import Settings

    return Settings.load(data_dir).need(*needed)


def answer_json(value: Any) -> None:
    """Print one JSON value on one line."""
    answers.write(json.dumps(value, default=_plain) + "\n")


def _plain(value: object) -> str:
    return iso_ms(value) if isinstance(value, datetime) else str(value)


def parse_time(text: str | None) -> datetime | None:
    """Parse a time option: ISO 8601; UTC without an offset, midnight without a time."""
    if text is None:
        return None
    try:
        return parse_time_or_day(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}; write 2026-11-22T14:30:00Z or 2026-11-22") from None


def parse_range(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    """Parse two time options that name a range without its end."""
    begin, end = parse_time(since), parse_time(until)
    if begin is not None and end is not None and begin >= end:
        order = "at its beginning" if begin == end else f"before it begins at {since}"
        raise typer.BadParameter(f"the range ends at {until}, {order}")
    return begin, end


def parse_filter(text: str) -> "Group":
    """Parse a --where option."""
    from readers.filter_fields import FilterError
    from readers.filter_text import read_filter

    try:
        return read_filter(text)
    except FilterError as error:
        place = ".".join(map(str, error.where))
        raise typer.BadParameter(f"{place}: {error}" if place else str(error), param_hint="--where") from None


def checked_namespace(value: str | None) -> str | None:
    """Check a namespace option by the rule for records."""
    from schemas.wire import check_namespace

    try:
        return value if value is None else check_namespace(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Namespace = Annotated[
    str | None, typer.Option(help="Namespace. Default: TALLY_NAMESPACE, else default.", callback=checked_namespace)
]
