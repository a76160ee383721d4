"""Commands that put events on the topic."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from producers.lines import read_lines
from producers.open_bandit import Campaign, LoggingPolicy, read_log
from producers.producer import NotAccepted, Producer
from producers.simulator import Simulator
from readers.overview import VerdictCounts
from runtime import clickhouse
from runtime.errors import TallyError
from runtime.settings import Settings
from schemas.interaction import Interaction
from schemas.rejection import Rejection
from tally.background import read_in_background
from tally.cli.options import AsJson, DataDir, Namespace, answer_json
from tally.cli.output import err, out, say
from tally.feed import EmitSummary, Pace, Source, at_rate, feed, paced, until, wait_for_verdicts

Wait = Annotated[float, typer.Option(help="Seconds to wait for outcomes; 0 does not wait.", min=0)]

Rate = Annotated[
    float | None,
    typer.Option(
        help="Maximum events per second, to leave capacity for live traffic during a backfill.", min=0.1, max=1e6
    ),
]


def emit(
    file: Annotated[str, typer.Argument(help="File of JSON objects, one per line; - reads standard input.")],
    rate: Rate = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Emit interactions from lines of JSON. Exits 1 when a line was refused; the others are emitted.

    Example: echo '{"feature_id": "doc-1", "interaction_type": ["click"], "position": 0}' | tally emit -
    """
    settings = Settings.load(data_dir)
    refused: list[tuple[int, Rejection]] = []

    def valid_lines() -> Iterator[Interaction]:
        with _open(file) as stream:
            for number, content in read_lines(stream):
                if isinstance(content, Rejection):
                    refused.append((number, content))
                    say(f"line {number}: {content.reason} {content.field}: {content.message}")
                else:
                    yield content

    async def valid() -> AsyncIterator[Interaction]:
        pace = Pace(rate)
        async for interaction in read_in_background(valid_lines()):
            await pace.wait()
            yield interaction

    async def run() -> int:
        failed = 0
        async with Producer(settings) as producer:
            async for result in producer.emit_many(valid(), namespace=namespace):
                if isinstance(result, NotAccepted):
                    failed += 1
                    say(f"not accepted: {result.error}")
                elif as_json:
                    answer_json(result._asdict())
                else:
                    out.print(f"{result.interaction_id}  {result.partition}/{result.offset}", highlight=False)
        return failed

    if asyncio.run(run()) or refused:
        raise typer.Exit(1)


def _open(file: str) -> BinaryIO:
    """Open a file; - is standard input."""
    if file == "-" and sys.stdin is None:
        raise TallyError("cannot read from standard input: it is closed")
    try:
        # A descriptor of its own: at its exit the interpreter waits for a thread that reads from sys.stdin.
        return os.fdopen(os.dup(0), "rb") if file == "-" else Path(file).open("rb")
    except OSError as error:
        raise TallyError(f"cannot read {file}: {error.strerror}") from error


def open_bandit(
    policy: Annotated[str, typer.Option(help="Logging policy: random or bts.")] = "random",
    campaign: Annotated[str, typer.Option(help="Campaign: all, men or women.")] = "all",
    limit: Annotated[int | None, typer.Option(help="Maximum rows to import.", min=1)] = None,
    rate: Rate = None,
    wait: Wait = 60,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Import an Open Bandit log: 10,000 real impressions and clicks. Importing twice stores once.

    Examples: tally import open-bandit --policy random --campaign all; tally import open-bandit --rate 500
    """
    chosen_policy, chosen_campaign = (
        _one_of(policy, LoggingPolicy, "--policy"),
        _one_of(campaign, Campaign, "--campaign"),
    )
    settings = Settings.load(data_dir)
    space = namespace or settings.namespace
    rows = itertools.islice(read_log(chosen_policy, chosen_campaign, space), limit)  # type: ignore[arg-type]
    source = at_rate(rows, rate)
    fed, verdicts = asyncio.run(_feed_and_wait(settings, source, space, wait, total=limit or 10_000))
    _report(f"open-bandit {policy}/{campaign}", fed, verdicts, as_json=as_json)


def _one_of(value: str, choices: object, option: str) -> str:
    allowed: tuple[str, ...] = choices.__args__  # type: ignore[attr-defined]
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}", param_hint=option)
    return value


def simulate(
    rate: Annotated[float, typer.Option(help="Events per second; 0 = unlimited.", min=0, max=1_000_000)] = 200,
    seconds: Annotated[float | None, typer.Option("--for", help="Seconds to run.", min=0, max=10_000_000)] = None,
    events: Annotated[int | None, typer.Option(help="Stop after this many events.", min=1)] = None,
    duplicates: Annotated[float, typer.Option(help="Fraction of events that are duplicates.", min=0, max=0.9)] = 0.05,
    late: Annotated[float, typer.Option(help="Fraction of events that are late.", min=0, max=0.9)] = 0.02,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same sessions: again within 5 minutes, all duplicates.")
    ] = None,
    wait: Wait = 60,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Emit simulated search sessions, until Ctrl-C unless --for or --events ends it.

    Example: tally simulate --rate 500 --for 60 --duplicates 0.1
    """
    settings = Settings.load(data_dir)
    endless = iter(Simulator(time.time_ns() if seed is None else seed, duplicates=duplicates, late=late))
    source: Source = itertools.islice(endless, events)
    if rate:
        source = paced(itertools.islice(endless, events), rate=rate, seconds=seconds)
    elif seconds is not None:
        source = _for_seconds(itertools.islice(endless, events), seconds)
    total = events or (int(rate * seconds) if rate and seconds else None)
    fed, verdicts = asyncio.run(_feed_and_wait(settings, source, namespace or settings.namespace, wait, total=total))
    _report("simulated", fed, verdicts, as_json=as_json)


async def _for_seconds(source: Iterator[Interaction], seconds: float) -> AsyncIterable[Interaction]:
    deadline = asyncio.get_running_loop().time() + seconds
    for interaction in source:
        if asyncio.get_running_loop().time() >= deadline:
            return
        yield interaction


async def _feed_and_wait(
    settings: Settings, source: Source, namespace: str, wait_s: float, *, total: int | None
) -> tuple[EmitSummary, VerdictCounts | None]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress:
        task = progress.add_task("accepted by Kafka", total=total)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        async with Producer(settings) as producer:
            fed = await feed(
                producer,
                until(stop, source),
                namespace=namespace,
                keep_offsets=bool(wait_s),
                progress=lambda accepted: progress.update(task, completed=accepted),
            )
        if not wait_s:
            return fed, None
        progress.update(task, description="waiting for verdicts")
        async with clickhouse.connect(settings) as database:
            return fed, await wait_for_verdicts(settings, database, fed, wait_s)


def _report(what: str, fed: EmitSummary, verdicts: VerdictCounts | None, *, as_json: bool) -> None:
    pending = fed.accepted - verdicts.total if verdicts else None
    if as_json:
        counts = verdicts.model_dump() if verdicts else {}
        answer_json({"accepted": fed.accepted, **counts, "pending": pending, "failed": len(fed.failed)})
    else:
        line = f"{what}: {fed.accepted:,} accepted"
        if verdicts:
            line += f"; {verdicts.stored:,} stored, {verdicts.duplicates:,} duplicates, {verdicts.rejected:,} rejected"
        if pending:
            line += f"; {pending:,} without a verdict yet (is a consumer running?)"
        out.print(line, highlight=False)
    if fed.failed:
        raise TallyError(f"{len(fed.failed)} were not accepted, first: {fed.failed[0].error}")
