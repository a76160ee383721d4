"""Commands that answer."""

import asyncio
import json
import shlex
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from readers.lookup import Lookups
from readers.overview import Overview, VerdictCounts, count_verdicts, count_withheld, read_lag
from readers.reports import REPORTS, Report, run_report
from readers.stuck_now import find_stuck
from readers.tail import Seen, Skipped, Wanted
from readers.tail import tail as follow
from runtime import clickhouse
from runtime.errors import TallyError
from runtime.ports import http_answers
from runtime.redis import connect_redis
from runtime.settings import Settings, without_password
from runtime.stack_file import StackFile, process_exists
from schemas.identity import is_interaction_id
from schemas.outcome import Deleted, DuplicateOf, Moved, Outcome, RejectedFor, Stored
from schemas.record import record_from_row
from schemas.tables import INTERACTIONS
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, checked_namespace
from tally.cli.output import answers, cell, out, say, table


def lookup(
    interaction_id: Annotated[str, typer.Argument(help="int_ and 32 hex digits.")],
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """What became of one event: its record, whose duplicate it is, or why it was rejected. Exits 1 for an unknown id.

    Example: tally lookup int_0198b2c0a1b27c3d8e4f5061728394a5
    """
    settings = Settings.load(data_dir)
    if not is_interaction_id(interaction_id):
        raise TallyError(f"{interaction_id!r} is no interaction id: int_ and the 32 hex digits of a UUIDv7")

    async def ask() -> Outcome | None:
        async with clickhouse.connect(settings) as database:
            return await Lookups(database, 1).get(namespace or settings.namespace, interaction_id)

    answer = _describe(asyncio.run(ask()))
    if answer is None:
        raise TallyError(f"no interaction {interaction_id} in namespace {namespace or settings.namespace!r}")
    if as_json:
        answer_json(answer)
    else:
        out.print_json(json.dumps(answer))


def _describe(outcome: Outcome | None) -> dict[str, Any] | None:
    match outcome:
        case Stored(row):
            record = json.loads(msgspec.json.encode(record_from_row(row)))
            return {"outcome": "stored", "record": record}
        case DuplicateOf(owner_id):
            return {"outcome": "duplicate", "duplicate_of": owner_id}
        case RejectedFor() as rejected:
            return {"outcome": "rejected", **rejected._asdict()}
        case Moved(partition, offset):
            return {"outcome": "moved", "partition": partition, "offset": offset}
        case Deleted():
            return {"outcome": "deleted"}
    return None


def report(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(REPORTS)}.")],
    hours: Annotated[float, typer.Option(help="How far back, by the time of recording.", min=0.01, max=300_000)] = 24,
    plot: Annotated[Path | None, typer.Option(help="Also draw it into this PNG file.")] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Analytics over what was recorded lately.

    Examples: tally report positions --plot positions.png; tally report verdicts --hours 1 --json
    """
    if name not in REPORTS:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(REPORTS)}", param_hint="NAME")
    settings = Settings.load(data_dir)
    until = datetime.now(UTC) + timedelta(minutes=1)  # a broker's clock may be ahead of ours

    async def ask() -> Report:
        async with clickhouse.connect(settings) as database:
            since = until - timedelta(hours=hours)
            return await run_report(database, name, namespace or settings.namespace, since, until)

    found = asyncio.run(ask())
    if plot:
        from tally.plot import draw  # noqa: PLC0415  (matplotlib is a group of its own)

        draw(found, plot)
    if as_json:
        answer_json([dict(zip(found.columns, row, strict=True)) for row in found.rows])
        return
    shown = table(*found.columns, title=found.title, caption=None if found.rows else "nothing recorded in this range")
    for row in found.rows:
        shown.add_row(*(cell(_written(value)) for value in row))
    out.print(shown)


def _written(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def tail(
    namespace: Annotated[str | None, typer.Option(help="Only of this one.", callback=checked_namespace)] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only this interaction type.")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this user_id.")] = None,
    execution: Annotated[str | None, typer.Option(help="Only of this execution_id.")] = None,
    verdict: Annotated[
        str | None, typer.Option(help="Only stored, duplicate, rejected, deleted or moved ones.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--for", help="Stop after so many seconds.", min=0.1)] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Events as they come in, each with what became of it, until Ctrl-C.

    Examples: tally tail --type purchase; tally tail --verdict rejected --json
    """
    if verdict not in (None, "stored", "duplicate", "rejected", "deleted", "moved"):
        raise typer.BadParameter(f"{verdict!r}: stored, duplicate, rejected, deleted or moved", param_hint="--verdict")
    settings = Settings.load(data_dir).need("kafka", "clickhouse")
    wanted = Wanted(namespace, kind, user, execution, verdict)

    async def show() -> None:
        async with (
            clickhouse.connect(settings) as database,
            asyncio.timeout(seconds),
            aclosing(follow(settings, database, wanted)) as events,
        ):
            async for each in events:
                if isinstance(each, Skipped):
                    say(f"{each.events:,} events came too fast to be shown: narrow what is shown")
                elif as_json:
                    answer_json(each.model_dump())
                    answers.flush()
                else:
                    out.print(cell(_line(each)), soft_wrap=True)

    with suppress(TimeoutError):
        asyncio.run(show())


def _line(seen: Seen) -> str:
    what = f"{seen.verdict or 'in flight':<9} {seen.interaction_id or f'{seen.partition}/{seen.offset}'}"
    told = [
        ",".join(seen.interaction_type),
        seen.feature_id,
        seen.user_id and f"user {seen.user_id}",
        seen.execution_id and f"execution {seen.execution_id}",
        seen.duplicate_of and f"duplicate of {seen.duplicate_of}",
        seen.reason if seen.verdict == "rejected" else None,
    ]
    return " ".join([seen.timestamp, what, seen.namespace, *filter(None, told)])


def status(
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Also the API key, and addresses with their passwords.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """The parts, the lag of each partition, and what became of everything so far. Exits 1 when something is down.

    Examples: tally status --json; tally status --show-secrets
    """
    settings = Settings.load(data_dir).need("kafka", "clickhouse")
    stack = StackFile.of_running_stack(settings.data_dir)
    overview, problems = asyncio.run(_look(settings, stack))
    described = _status(settings, stack, overview, problems, show_secrets=show_secrets)
    if as_json:
        answer_json(described)
    else:
        _print_status(described)
    if problems:
        raise typer.Exit(1)


async def _look(settings: Settings, stack: StackFile | None) -> tuple[Overview, list[str]]:
    """How things stand, and what is wrong with them. A store that is away hides nothing of the others."""
    overview, problems = Overview.empty(), list[str]()

    async def log() -> None:
        overview.partitions = await read_lag(settings)
        overview.stuck = await find_stuck(settings, overview.partitions)

    async def tables() -> None:
        async with clickhouse.connect(settings) as database:
            overview.verdicts = await count_verdicts(settings, database)
            overview.withheld = await count_withheld(settings, database)

    async def redis() -> None:
        if settings.redis.get_secret_value():
            async with connect_redis(settings):
                pass

    for look in (log, tables, redis):
        try:
            await look()
        except TallyError as error:
            problems.append(str(error))
    problems += map(str, overview.stuck)
    if stack:
        running = sum(map(process_exists, stack.pids.workers))
        if running < stack.workers:
            problems.append(f"{running} of {stack.workers} workers run")
        if not await asyncio.to_thread(http_answers, f"{stack.endpoints.api}/v1/health"):
            problems.append(f"the API at {stack.endpoints.api} does not answer")
    return overview, problems


def _status(
    settings: Settings, stack: StackFile | None, overview: Overview, problems: list[str], *, show_secrets: bool
) -> dict[str, Any]:
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
        "ready": not problems,
        "problems": problems,
        "pids": stack.pids.model_dump(exclude={"up"}) if stack else {},
        **secrets,
        "topic": settings.topic,
        "dead_letter_topic": settings.letters_topic,
        "database": settings.database,
        "table": INTERACTIONS,
        "endpoints": endpoints,
        "lag": overview.lag,
        "partitions": [partition.model_dump() for partition in overview.partitions],
        "stuck": [each._asdict() for each in overview.stuck],
        **overview.verdicts.model_dump(),
        "withheld": overview.withheld,
    }


def _print_status(described: dict[str, Any]) -> None:
    parts = table("part", "pid", "endpoint", title="Parts")
    for name, pid in described["pids"].items():
        shown = ", ".join(map(str, pid)) if isinstance(pid, list) else str(pid)
        parts.add_row(name, shown, without_password(described["endpoints"].get(name, "")))
    lag = table("partition", "end", "committed", "lag", title=f"Topic {described['topic']}")
    for partition in described["partitions"]:
        lag.add_row(*(str(partition[column]) for column in ("partition", "end_offset", "committed", "lag")))
    if described["pids"]:
        out.print(parts)
    if "key" in described:
        for name, secret in {"key": described["key"], **described["endpoints"]}.items():
            out.print(cell(f"{name} {secret}"), soft_wrap=True)
    out.print(lag)
    out.print(
        f"{VerdictCounts.model_validate(described).as_text}, lag {described['lag']:,}",
        highlight=False,
    )
    for namespace, events in described["withheld"].items():
        out.print(
            f"{events:,} valid events of {namespace} are held: "
            f"tally dlq replay --reason namespace_held --namespace {shlex.quote(namespace)}",
            highlight=False,
            markup=False,
        )
    for problem in described["problems"]:
        out.print(f"not ready: {problem}", style="red", markup=False)
