"""`tally status`."""

import asyncio
import shlex
from collections.abc import Awaitable
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from readers.overview import PartitionLag, VerdictCounts, count_verdicts, count_withheld, read_lag
from readers.stuck_now import find_stuck
from runtime import clickhouse
from runtime.errors import TallyError, Unavailable
from runtime.ports import responds_to_http
from runtime.settings import Settings, without_password
from runtime.stack_file import StackFile, StackPhase, process_exists
from runtime.stuck import StuckPartition
from schemas.tables import INTERACTIONS
from tally.answering import faults_of
from tally.cli.options import AsJson, DataDir, answer_json
from tally.cli.output import cell, out, table
from tally.invoked import as_invoked, invoked


class _Known(BaseModel):
    """How things stand, as far as the stores told: None is not known."""

    partitions: list[PartitionLag] | None = None
    stuck: list[StuckPartition] | None = None
    verdicts: VerdictCounts | None = None
    withheld: dict[str, int] | None = None
    problems: list[str] = []
    exit_code: int = 0

    @property
    def lag(self) -> int | None:
        """Records that are not committed."""
        return None if self.partitions is None else sum(each.lag for each in self.partitions)

    def add(self, problem: TallyError | str) -> None:
        """Something is wrong; a store that does not answer is said by the exit code, too."""
        self.problems.append(str(problem))
        self.exit_code = max(self.exit_code, problem.exit_code if isinstance(problem, Unavailable) else 1)


def status(
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Also print the API key and addresses with passwords.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The parts, the lag of each partition, and what became of everything so far.

    Exits 4 when a store does not answer, and 1 when something else is wrong.

    Examples: tally status --json; tally status --show-secrets
    """
    settings = Settings.load(data_dir).need("kafka", "clickhouse")
    stack = StackFile.of_running_stack(settings.data_dir)
    known = asyncio.run(_look(settings, stack))
    described = _status(settings, stack, known, show_secrets=show_secrets)
    if as_json:
        answer_json(described)
    else:
        _print_status(described, known)
    if known.problems:
        raise typer.Exit(known.exit_code)


async def _look(settings: Settings, stack: StackFile | None) -> _Known:
    """How things stand, and what is wrong with them. A store that is away hides nothing of the others."""
    known = _Known()
    stores = ("kafka", "redis", "clickhouse") if settings.redis.get_secret_value() else ("kafka", "clickhouse")
    faults = await faults_of(settings, *stores)
    for fault in faults.values():
        known.add(fault)
    if "kafka" not in faults:
        await _note(known, _ask_log(settings, known))
    if "clickhouse" not in faults:
        await _note(known, _ask_tables(settings, known))
    for each in known.stuck or ():
        known.add(str(each))
    if stack:
        await _ask_stack(stack, known)
        if (phase := StackPhase.of(settings.data_dir)) and phase.state == "stopping":
            known.add(f"the stack is stopping (pid {phase.pid})")
    return known


async def _note(known: _Known, look: Awaitable[None]) -> None:
    try:
        await look
    except TallyError as error:
        known.add(error)


async def _ask_log(settings: Settings, known: _Known) -> None:
    known.partitions = await read_lag(settings)
    known.stuck = await find_stuck(settings, known.partitions)


async def _ask_tables(settings: Settings, known: _Known) -> None:
    async with clickhouse.connect(settings) as database:
        known.verdicts = await count_verdicts(settings, database)
        known.withheld = await count_withheld(settings, database)


async def _ask_stack(stack: StackFile, known: _Known) -> None:
    running = sum(map(process_exists, stack.pids.workers))
    if running < stack.workers:
        known.add(f"{running} of {stack.workers} workers run")
    if not await asyncio.to_thread(responds_to_http, f"{stack.endpoints.api}/v1/health"):
        known.add(f"the API at {stack.endpoints.api} does not answer")


def _status(settings: Settings, stack: StackFile | None, known: _Known, *, show_secrets: bool) -> dict[str, Any]:
    redis, clickhouse_url = settings.redis.get_secret_value(), settings.clickhouse.get_secret_value()
    endpoints = {
        "kafka": settings.kafka,
        "redis": redis if show_secrets else without_password(redis),
        "clickhouse": clickhouse_url if show_secrets else without_password(clickhouse_url),
        "api": stack.endpoints.api if stack else "",
    }
    secrets: dict[str, Any] = {}
    if show_secrets:
        secrets["key"] = settings.api_key.get_secret_value()
        endpoints["analyst"] = stack.endpoints.analyst if stack else ""
    return {
        "ready": not known.problems,
        "problems": known.problems,
        "pids": stack.pids.model_dump(exclude={"up"}) if stack else {},
        **secrets,
        "topic": settings.topic,
        "dead_letter_topic": settings.dead_letter_topic_name,
        "database": settings.database,
        "table": INTERACTIONS,
        "endpoints": endpoints,
        "lag": known.lag,
        "partitions": None if known.partitions is None else [each.model_dump() for each in known.partitions],
        "stuck": None if known.stuck is None else [each._asdict() for each in known.stuck],
        **(known.verdicts.model_dump() if known.verdicts else dict.fromkeys(VerdictCounts.model_fields)),
        "withheld": known.withheld,
    }


def _print_status(described: dict[str, Any], known: _Known) -> None:
    parts = table("part", "pid", "endpoint", title="Parts")
    for name, pid in described["pids"].items():
        shown = ", ".join(map(str, pid)) if isinstance(pid, list) else str(pid)
        parts.add_row(name, shown, without_password(described["endpoints"].get(name, "")))
    if described["pids"]:
        out.print(parts)
    if "key" in described:
        for name, secret in {"key": described["key"], **described["endpoints"]}.items():
            out.print(cell(f"{name} {secret}"), soft_wrap=True)
    if known.partitions is not None:
        lag = table("partition", "end", "committed", "lag", title=f"Topic {described['topic']}")
        for partition in known.partitions:
            lag.add_row(partition.partition, partition.end_offset, partition.committed, partition.lag)
        out.print(lag)
    counts = [known.verdicts.as_text] if known.verdicts else []
    counts += [] if known.lag is None else [f"lag {known.lag:,}"]
    if counts:
        out.print(", ".join(counts), highlight=False)
    for namespace, events in (known.withheld or {}).items():
        _print_withheld(namespace, events)
    for problem in known.problems:
        out.print(f"not ready: {as_invoked(problem)}", style="red", markup=False, soft_wrap=True)


def _print_withheld(namespace: str, events: int) -> None:
    """Say how events that are held come back. Put back too early, they are held again."""
    hint = f"{invoked()} dlq replay --reason namespace_held --namespace {shlex.quote(namespace)}"
    out.print(
        f"{events:,} valid events of {namespace} are held: once less than half of what it sends is rejected, {hint}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
