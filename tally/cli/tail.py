"""`tally tail`: one line for each event."""

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.cells import cell_len, set_cell_size

from runtime.text import printable
from tally.cli.options import AsJson, DataDir, answer_json, checked_namespace, load_settings, needs
from tally.cli.output import answers, cell, counted, out, say

if TYPE_CHECKING:
    from runtime.clickhouse import ClickHouse
    from tally.tail import TailEvent

Verdict = Literal["stored", "duplicate", "rejected", "deleted", "moved"]

_TIME = slice(11, 23)
"""Part of a timestamp that a line shows: HH:MM:SS.mmm, in UTC."""
_SHORT_ID = slice(-8, None)
"""Last digits of an interaction id: the first ones are the time."""
_MIN_TEXT = 4
"""Characters that a shortened text keeps at least."""


@needs("worker")
def tail(
    namespace: Annotated[
        str | None, typer.Option(help="Only events of this namespace.", callback=checked_namespace)
    ] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only events of this interaction type.")] = None,
    user: Annotated[str | None, typer.Option(help="Only events of this user_id.")] = None,
    execution: Annotated[str | None, typer.Option(help="Only events of this execution_id.")] = None,
    verdict: Annotated[Verdict | None, typer.Option(help="Only events with this outcome.")] = None,
    seconds: Annotated[float | None, typer.Option("--for", help="Stop after this many seconds.", min=0.1)] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show events as they come in, each with its outcome, until Ctrl-C.

    A line has: time (UTC), outcome, types, query, retriever, feature, position, end of the id, owner of a duplicate.
    Texts are shortened to the width of a terminal; a pipe and --json have them whole, and whole ids.

    Examples:
        tally tail --type purchase
        tally tail --verdict rejected --json
    """
    from tally.answering import queried
    from tally.tail import Skipped, TailFilter
    from tally.tail import tail as follow

    settings = load_settings(data_dir, "kafka", "clickhouse")
    wanted = TailFilter(namespace, kind, user, execution, verdict)

    async def show(database: "ClickHouse") -> None:
        async with asyncio.timeout(seconds), aclosing(follow(settings, database, wanted)) as events:
            async for each in events:
                if isinstance(each, Skipped):
                    say(f"{counted(each.events, 'event')} came too fast to be shown: narrow what is shown")
                elif as_json:
                    answer_json(each.model_dump())
                    answers.flush()
                else:
                    width = out.width if answers.isatty() else None
                    out.print(cell(line_of(each, settings.namespace, width)), soft_wrap=True)

    with suppress(TimeoutError):
        queried(settings, show, others=["kafka"])


def line_of(event: "TailEvent", default_namespace: str, width: int | None) -> str:
    """Return the line of an event, at most `width` cells wide (None: whole texts and the whole id).

    Control characters are escaped before texts are shortened. The namespace is shown where it is not the default one.
    """
    identity = event.interaction_id or f"{event.partition}/{event.offset}"
    if width is not None and event.interaction_id:
        identity = event.interaction_id[_SHORT_ID]
    before = [event.timestamp[_TIME], f"{event.verdict or 'in flight':<9}"]
    if event.interaction_type:
        before.append(f"{','.join(event.interaction_type):<10}")
    texts = [event.query and f'"{event.query}"', event.retriever_id, event.feature_id]
    shown = [printable(text) for text in texts if text]
    after = [] if event.position is None else [f"#{event.position}"]
    after = [*after, identity, *map(printable, _details(event, default_namespace, width))]
    if width is None:
        return " ".join([*before, *shown, *after])
    room = width - sum(cell_len(each) + 1 for each in (*before, *after)) - max(0, len(shown) - 1)
    return _shortened(" ".join([*before, *_shared_room(shown, room), *after]), width)


def _details(event: "TailEvent", default_namespace: str, width: int | None) -> list[str]:
    found = []
    if event.duplicate_of:
        found.append(f"of {event.duplicate_of if width is None else event.duplicate_of[_SHORT_ID]}")
    if event.verdict == "rejected" and event.reason:
        found.append(event.reason)
    if event.namespace != default_namespace:
        found.append(f"namespace {event.namespace}")
    return found


def _shared_room(texts: list[str], room: int) -> list[str]:
    """Shorten the longest texts until all of them fit `room` cells, or have `_MIN_TEXT` cells each."""
    sizes = [cell_len(text) for text in texts]
    bound = max(sizes, default=0)
    while sum(min(size, bound) for size in sizes) > room and bound > _MIN_TEXT:
        bound -= 1
    return [_shortened(text, bound) for text in texts]


def _shortened(text: str, cells: int) -> str:
    """Return a text in at most `cells` cells; … is in place of what was cut."""
    return text if cell_len(text) <= cells else f"{set_cell_size(text, cells - 1).rstrip()}…"
