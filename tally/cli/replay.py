"""`tally replay`."""

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.tasks import cancel_and_wait
from tally.cli.options import AsJson, DataDir, Since, Until, answer_json, load_settings, needs, parse_range
from tally.cli.output import cell, out, progress_bar, say

if TYPE_CHECKING:
    from runtime.clickhouse import ClickHouse
    from tally.comparison import Comparison
    from tally.replay import Replay

POLL_S = 0.25


@needs("worker")
def replay(
    into: Annotated[str, typer.Option(help="Target database; created, or resumed if it holds this replay.")],
    since: Since = None,
    until: Until = None,
    swap: Annotated[bool, typer.Option("--swap", help="Replace the live tables with the result.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Replay the log into another database, with a group and claims of its own, and compare the outcomes.

    Rows outside the range are copied. Exits 1 when an outcome differs, unless --swap is given. --swap needs the
    workers stopped; the other database keeps the old tables.

    Examples:
        tally replay --into tally_again
        tally replay --into repaired --from 2026-11-22T14:00:00Z --swap
    """
    from tally.answering import queried
    from tally.replay import Replay

    settings = load_settings(data_dir, "kafka", "redis", "clickhouse")
    begin, end = parse_range(since, until)

    async def run(database: "ClickHouse") -> "Comparison":
        work = Replay(settings, into, database)
        say("copying the rows outside the range")
        await work.prepare(begin, end)
        await _decide(work)
        say("comparing")
        found = await work.compare()
        if swap:
            await work.swap()
        return found

    found = queried(settings, run, others=["kafka", "redis"])
    _report(found, into, swapped=swap, as_json=as_json)
    if found.changed and not swap:
        raise typer.Exit(1)


async def _decide(work: "Replay") -> None:
    """Decide, with progress. Ctrl-C ends after the batch in flight; the same command continues from there."""
    deciding = asyncio.create_task(work.decide())
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stopped.set)
    try:
        with progress_bar() as progress:
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
        out.print(f"swapped: the old tables are in database {into}; DROP DATABASE {into} removes them")
