"""Commands that put events on the topic."""

import asyncio
import itertools
import signal
import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runtime.errors import TallyError
from schemas.rejection import Rejection
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import out, progress_bar, say

if TYPE_CHECKING:
    from producers.producer import NotAccepted, Receipt
    from readers.overview import VerdictCounts
    from runtime.settings import Settings
    from tally.feed import EmitSummary
    from tally.pace import Source

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

    Standard output has the receipts and nothing else, with --json as JSON: the id, the partition and the offset of each
    accepted event. Refused lines and totals are text on standard error.

    Examples:
        echo '{"feature_id": "doc-1", "interaction_type": ["click"], "position": 0}' | tally emit -
    """
    from tally.emit import emit_lines

    settings = load_settings(data_dir)
    results = _EmitResults(as_json=as_json)
    try:
        asyncio.run(
            emit_lines(
                settings, file, namespace=namespace, rate=rate, refused=results.refuse, emitted=results.add_emitted
            )
        )
    except KeyboardInterrupt:
        say(results.totals)
        raise
    say(results.totals)
    if results.refused or results.failed:
        raise typer.Exit(1)


class _EmitResults:
    """Printer and counter of the results of `tally emit`."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._begun = time.monotonic()
        self.accepted = self.refused = self.failed = 0

    def refuse(self, number: int, rejection: Rejection) -> None:
        """Print the rejection of a line."""
        self.refused += 1
        where = f"{rejection.reason} {rejection.field}".rstrip()
        say(f"line {number}: {where}: {rejection.message}")

    def add_emitted(self, result: "Receipt | NotAccepted") -> None:
        """Print a receipt, or the error of an event that Kafka did not accept."""
        from producers.producer import NotAccepted

        if isinstance(result, NotAccepted):
            self.failed += 1
            say(f"not accepted: {result.error}")
            return
        self.accepted += 1
        if self._as_json:
            answer_json(result._asdict())
        else:
            offset = "" if result.offset is None else f" offset {result.offset}"
            out.print(f"{result.interaction_id}  partition {result.partition}{offset}", highlight=False)

    @property
    def totals(self) -> str:
        """Counts and duration as one line."""
        failed = f", {self.failed:,} not accepted by Kafka" if self.failed else ""
        duration_s = time.monotonic() - self._begun
        return f"{self.accepted:,} accepted, {self.refused:,} refused{failed} in {duration_s:.1f} s"


@needs("worker")
def open_bandit(
    policy: Annotated[Literal["random", "bts"], typer.Option(help="Logging policy.")] = "random",
    campaign: Annotated[Literal["all", "men", "women"], typer.Option(help="Campaign.")] = "all",
    limit: Annotated[int | None, typer.Option(help="Maximum rows to import.", min=1)] = None,
    rate: Rate = None,
    wait: Wait = 60,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Import an Open Bandit log: 10,000 real impressions and clicks. Importing twice stores once.

    Examples:
        tally import open-bandit --policy random --campaign all
        tally import open-bandit --rate 500
    """
    from producers.open_bandit import read_log
    from tally.pace import at_rate, until

    settings = load_settings(data_dir)
    space = namespace or settings.namespace
    stop = asyncio.Event()
    source = until(stop, at_rate(itertools.islice(read_log(policy, campaign, space), limit), rate))
    fed, verdicts = asyncio.run(feed_and_wait(settings, source, stop, space, wait, total=limit or 10_000))
    report(f"open-bandit {policy}/{campaign}", fed, verdicts, as_json=as_json)


async def feed_and_wait(
    settings: "Settings", source: "Source", stop: asyncio.Event, namespace: str, wait_s: float, *, total: int | None
) -> "tuple[EmitSummary, VerdictCounts | None]":
    """Emit `source`, which ends when SIGINT sets `stop`. Then count the outcomes within `wait_s` (0: None)."""
    from producers.producer import Producer
    from runtime import clickhouse
    from tally.feed import feed, wait_for_verdicts

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    with progress_bar() as bar:
        task = bar.add_task("accepted by Kafka", total=total)
        async with Producer(settings) as producer:
            fed = await feed(
                producer,
                source,
                namespace=namespace,
                keep_offsets=bool(wait_s),
                progress=lambda accepted: bar.update(task, completed=accepted),
            )
        if not wait_s:
            return fed, None
        bar.update(task, description="waiting for outcomes")
        async with clickhouse.connect(settings) as database:
            return fed, await wait_for_verdicts(settings, database, fed, wait_s)


def report(what: str, fed: "EmitSummary", verdicts: "VerdictCounts | None", *, as_json: bool) -> None:
    """Print what was accepted, and its outcomes if they were waited for. Raises TallyError if something was not."""
    pending = fed.accepted - verdicts.total if verdicts else None
    if as_json:
        counts = verdicts.model_dump() if verdicts else {}
        answer_json({"accepted": fed.accepted, **counts, "pending": pending, "failed": len(fed.failed)})
    else:
        line = f"{what}: {fed.accepted:,} accepted"
        if verdicts:
            line += f"; {verdicts.stored:,} stored, {verdicts.duplicates:,} duplicates, {verdicts.rejected:,} rejected"
        if pending:
            line += f"; {pending:,} pending (is a worker running?)"
        out.print(line, highlight=False)
    if fed.failed:
        raise TallyError(f"{len(fed.failed)} were not accepted, first: {fed.failed[0].error}")
