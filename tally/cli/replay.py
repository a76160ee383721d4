"""`tally replay`."""

import asyncio
import signal
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from runtime.settings import Settings
from runtime.tasks import cancel_and_wait
from tally.answering import asked
from tally.cli.options import AsJson, DataDir, answer_json, parse_range
from tally.cli.output import cell, err, out, say

if TYPE_CHECKING:
    from tally.replay import Comparison, Replay

POLL_S = 0.25


def replay(
    into: Annotated[str, typer.Option(help="Target database; created, or resumed if it holds this replay.")],
    since: Annotated[str | None, typer.Option("--from", help="Only records appended at this time or later.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only records appended before this time.")] = None,
    swap: Annotated[bool, typer.Option("--swap", help="Replace the live tables with the result.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Replay the log again into another database, under a group and claims of its own, and compare.

    What lies outside the range is copied, so that the database is whole. Exits 1 when an outcome differs, unless
    --swap was asked for; that needs the workers stopped, and keeps the old tables in the other database.

    Examples: tally replay --into tally_again; tally replay --into repaired --from 2026-11-22T14:00:00Z --swap
    """
    settings = Settings.load(data_dir).need("kafka", "redis", "clickhouse")
    begin, end = parse_range(since, until)
    stores = ["kafka", "redis", "clickhouse"]
    found = asked(settings, stores, lambda: _run(settings, into, begin, end, swap=swap))
    _report(found, into, swapped=swap, as_json=as_json)
    if found.changed and not swap:
        raise typer.Exit(1)


async def _run(
    settings: Settings, into: str, since: datetime | None, until: datetime | None, *, swap: bool
) -> "Comparison":
    from tally.replay import opened  # noqa: PLC0415  (the decide takes half a second, which no other command needs)

    async with opened(settings, into) as work:
        say("copying what lies outside the range")
        await work.prepare(since, until)
        await _decide(work)
        say("comparing")
        found = await work.compare()
        if swap:
            await work.swap()
        return found


async def _decide(work: "Replay") -> None:
    """Decide, with progress; Ctrl-C lets the batch in flight end, and the same command continues from there."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    deciding = asyncio.create_task(work.decide())
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    try:
        with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
            task = progress.add_task("deciding", total=work.records)
            while not deciding.done():
                await asyncio.wait((deciding,), timeout=POLL_S)
                if work.worker is not None:
                    progress.update(task, completed=work.worker.counts.total)
                    if stopped.is_set():
                        work.worker.stop()
        await deciding
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        await cancel_and_wait(deciding)
    if stopped.is_set():
        raise KeyboardInterrupt


def _report(found: "Comparison", into: str, *, swapped: bool, as_json: bool) -> None:
    differences = [each._asdict() for each in found.first]
    if as_json:
        answer_json({"same": found.same, "changed": found.changed, "swapped": swapped, "first": differences})
        return
    out.print(f"{found.same:,} outcomes are the same, {found.changed:,} are not", highlight=False)
    for each in found.first:
        out.print(cell(f"  {each.partition}/{each.offset}: {each.before or 'nothing'} -> {each.now or 'nothing'}"))
    if swapped:
        out.print(f"swapped: the old tables are in database {into}; DROP DATABASE {into} when you need them no more")
