"""`tally status`."""

import asyncio
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.tables import INTERACTIONS
from tally.cli.options import AsJson, DataDir, answer_json, load_settings, needs
from tally.cli.output import cell, counted, out, table
from tally.invoked import as_invoked, invoked

if TYPE_CHECKING:
    from runtime.settings import Settings
    from tally.status import Status


@needs("worker")
def status(
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="Also print the API key and addresses with passwords.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show processes, addresses, the lag of each partition, and the counts of outcomes.

    Exits 4 when a store does not answer, and 1 when something else is wrong.

    Examples:
        tally status --json
        tally status --show-secrets
    """
    from tally.status import read_status

    settings = load_settings(data_dir, "kafka", "clickhouse")
    found = asyncio.run(read_status(settings))
    described = _describe(settings, found, show_secrets=show_secrets)
    if as_json:
        answer_json(described)
    else:
        _print(described, found)
    if found.problems:
        raise typer.Exit(found.exit_code)


def _describe(settings: "Settings", found: "Status", *, show_secrets: bool) -> dict[str, Any]:
    from readers.overview import VerdictCounts
    from runtime.settings import without_password

    stack = found.stack
    redis, clickhouse_url = settings.redis.get_secret_value(), settings.clickhouse.get_secret_value()
    endpoints = {
        "kafka": settings.kafka,
        "redis": redis if show_secrets else without_password(redis),
        "clickhouse": clickhouse_url if show_secrets else without_password(clickhouse_url),
        "api": stack.endpoints.api if stack else "",
        "console": stack.endpoints.console if stack else "",
    }
    secrets: dict[str, Any] = {}
    if show_secrets:
        secrets["key"] = settings.api_key.get_secret_value()
        endpoints["analyst"] = stack.endpoints.analyst if stack else ""
    return {
        "ready": not found.problems,
        "problems": found.problems,
        "pids": stack.pids.model_dump(exclude={"up"}) if stack else {},
        **secrets,
        "topic": settings.topic,
        "dead_letter_topic": settings.dead_letter_topic_name,
        "database": settings.database,
        "table": INTERACTIONS,
        "endpoints": endpoints,
        "lag": found.lag,
        "partitions": None if found.partitions is None else [each.model_dump() for each in found.partitions],
        "stuck": None if found.stuck is None else [each._asdict() for each in found.stuck],
        **(found.verdicts.model_dump() if found.verdicts else dict.fromkeys(VerdictCounts.model_fields)),
        "withheld": found.withheld,
    }


def _print(described: dict[str, Any], found: "Status") -> None:
    from runtime.settings import without_password

    parts = table("part", "pid", "endpoint", title="Parts", keep=("part", "endpoint"))
    for name, pid in described["pids"].items():
        shown = ", ".join(map(str, pid)) if isinstance(pid, list) else str(pid)
        parts.add_row(name, shown, without_password(described["endpoints"].get(name, "")))
    if described["pids"]:
        out.print(parts)
    if "key" in described:
        for name, secret in {"key": described["key"], **described["endpoints"]}.items():
            out.print(cell(f"{name} {secret}"), soft_wrap=True)
    if found.partitions is not None:
        lag = table(
            *("partition", "end", "committed", "lag"), title=f"Topic {described['topic']}", keep=("partition", "lag")
        )
        for partition in found.partitions:
            lag.add_row(partition.partition, partition.end_offset, partition.committed, partition.lag)
        out.print(lag)
    counts = [found.verdicts.as_text] if found.verdicts else []
    counts += [] if found.lag is None else [f"lag {found.lag:,}"]
    if counts:
        out.print(", ".join(counts), highlight=False)
    for namespace, events in (found.withheld or {}).items():
        _print_withheld(namespace, events)
    for problem in found.problems:
        out.print(f"not ready: {as_invoked(problem)}", style="red", markup=False, soft_wrap=True)


def _print_withheld(namespace: str, events: int) -> None:
    """Print the command that puts held events back on the topic. Used too early, they are held again."""
    hint = f"{invoked()} dlq replay --reason namespace_held --namespace {shlex.quote(namespace)}"
    held = counted(events, "valid event")
    out.print(
        f"{held} of {namespace} held: once less than half of what it sends is rejected, {hint}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
