"""Command that emits simulated search sessions."""

import asyncio
import itertools
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.errors import TallyError
from tally.cli.feed import Wait, feed_and_wait, report
from tally.cli.options import AsJson, DataDir, Namespace, load_settings, needs

if TYPE_CHECKING:
    from producers.simulation.simulator import Simulator
    from producers.simulation.timeline import Backfill
    from tally.pace import Source

LiveOrBackfillRate = Annotated[
    float | None,
    typer.Option(
        help="Mean events per second, in real time (5), or with --days in simulated time (0.2). "
        "0: as many as possible, without pauses in the sessions.",
        min=0,
        max=5_000,
    ),
]

Late = Annotated[
    float | None,
    typer.Option(
        help="Fraction of events that arrive up to 2 minutes late. Default 0.02; not with --days or --rate 0.",
        min=0,
        max=0.9,
    ),
]

Bad = Annotated[
    float,
    typer.Option(help="Fraction of executions with faulty tracking; as many again are by bots.", min=0, max=0.5),
]

Shuffle = Annotated[
    float, typer.Option(help="Fraction of executions that show their results in random order.", min=0, max=1)
]

Lifts = Annotated[
    list[str] | None,
    typer.Option(help="Change of a retriever's attraction: hybrid=+5%, dense=-10%. Repeatable.", metavar="CHANGE"),
]

TruthFile = Annotated[
    Path | None, typer.Option(help="Write world, expected metrics and counts to this file as JSON.", dir_okay=False)
]


@needs("worker")
def simulate(
    rate: LiveOrBackfillRate = None,
    days: Annotated[
        float | None,
        typer.Option(help="Backfill the days that end now, at full speed, in the order of time.", min=0.001, max=3_650),
    ] = None,
    seconds: Annotated[float | None, typer.Option("--for", help="Seconds to run.", min=0, max=10_000_000)] = None,
    events: Annotated[int | None, typer.Option(help="Stop after this many events.", min=1)] = None,
    duplicates: Annotated[float, typer.Option(help="Fraction of events that are duplicates.", min=0, max=0.9)] = 0.05,
    late: Late = None,
    bad: Bad = 0,
    shuffle: Shuffle = 0,
    lift: Lifts = None,
    users: Annotated[int, typer.Option(help="Number of users who return.", min=1, max=200_000)] = 2_000,
    seed: Annotated[
        int | None,
        typer.Option(help="The same seed gives the same sessions: again within 5 minutes, nearly all are duplicates."),
    ] = None,
    truth: TruthFile = None,
    wait: Wait = 60,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Emit simulated search sessions, until Ctrl-C unless --days, --for or --events ends it.

    Sessions are in real time: clicks come seconds after their impressions. The end cuts open sessions; late events that
    are held arrive at once.

    Examples:
        tally simulate --rate 50 --for 60 --duplicates 0.1
        tally simulate --days 7 --truth truth.json
    """
    from producers.simulation.simulator import Simulator
    from producers.simulation.timeline import DEFAULT_BACKFILL_RATE, Backfill

    settings = load_settings(data_dir)
    backfill, stop = None, asyncio.Event()
    if days is not None:
        _refuse_with_days(rate=rate, seconds=seconds, late=late)
        backfill = Backfill(days, DEFAULT_BACKFILL_RATE if rate is None else rate)
    elif rate == 0 and late:
        raise typer.BadParameter("--late has no meaning with --rate 0: its sessions are not in real time")
    options: dict[str, Any] = {"duplicates": duplicates, "bad": bad, "shuffle": shuffle, "users": users}
    try:
        simulator = Simulator(
            time.time_ns() if seed is None else seed, **options, lifts=_parse_lifts(lift or []), backfill=backfill
        )
        if backfill is None and rate != 0:
            source, total = _live_source(simulator, stop, rate, late, seconds, events)
        else:
            source, total = _limited_source(simulator, stop, backfill, seconds, events)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _check_writable(truth)
    space = namespace or settings.namespace
    fed, verdicts = asyncio.run(feed_and_wait(settings, source, stop, space, wait, total=total))
    _write_truth(simulator, truth)
    report("simulated", fed, verdicts, as_json=as_json)


def _refuse_with_days(**given: float | None) -> None:
    """Raise BadParameter for options that have no meaning, or not this value, in a backfill."""
    if given["rate"] == 0:
        raise typer.BadParameter("--rate 0 has no meaning with --days: it is the mean of the simulated time")
    if given["seconds"] is not None:
        raise typer.BadParameter("--for has no meaning with --days: a backfill runs at full speed until now")
    if given["late"]:
        raise typer.BadParameter("--late has no meaning with --days: a backfill is in the order of time")


def _parse_lifts(texts: list[str]) -> dict[str, float]:
    """Parse changes such as hybrid=+5% into factors by name of retriever."""
    lifts: dict[str, float] = {}
    for text in texts:
        found = re.fullmatch(r"([a-z]+)=([+-]?\d{1,4}(?:\.\d{1,4})?)%", text)
        if found is None:
            raise typer.BadParameter(f"--lift {text}: write the retriever and its change, as in hybrid=+5%")
        if found[1] in lifts:
            raise typer.BadParameter(f"--lift names {found[1]} twice")
        lifts[found[1]] = 1 + float(found[2]) / 100
    return lifts


def _live_source(
    simulator: "Simulator",
    stop: asyncio.Event,
    rate: float | None,
    late: float | None,
    seconds: float | None,
    events: int | None,
) -> "tuple[Source, int | None]":
    """Return the events to emit in real time, and their number as far as it is known (with `seconds`: its mean)."""
    from producers.simulation.live import DEFAULT_LATE, DEFAULT_LIVE_RATE
    from tally.pace import in_real_time

    rate = DEFAULT_LIVE_RATE if rate is None else rate
    traffic = simulator.live(rate, DEFAULT_LATE if late is None else late)
    limits = (events, None if seconds is None else int(rate * seconds))
    total = min((limit for limit in limits if limit is not None), default=None)
    return in_real_time(traffic, stop, seconds=seconds, events=events), total


def _limited_source(
    simulator: "Simulator", stop: asyncio.Event, backfill: "Backfill | None", seconds: float | None, events: int | None
) -> "tuple[Source, int | None]":
    """Return the events to emit at full speed, and their number as far as it is known (of a backfill: its mean)."""
    from tally.pace import for_seconds, until

    simulated = itertools.islice(simulator, events)
    if backfill is not None:
        return until(stop, simulated), events or int(backfill.days * 86_400 * backfill.rate)
    return until(stop, simulated if seconds is None else for_seconds(simulated, seconds)), events


def _check_writable(path: Path | None) -> None:
    """Raise BadParameter, before anything is emitted, if the truth cannot be written. A new file is removed again."""
    if path is not None:
        is_new = not path.exists()
        try:
            path.open("a").close()
            if is_new:
                path.unlink()
        except OSError as error:
            raise typer.BadParameter(f"--truth {path}: {error.strerror}") from None


def _write_truth(simulator: "Simulator", path: Path | None) -> None:
    from producers.simulation.truth import truth_of

    if path is not None:
        text = json.dumps(truth_of(simulator), allow_nan=False) + "\n"
        try:
            path.write_text(text)
        except OSError as error:
            raise TallyError(f"--truth {path}: {error.strerror}") from error
