"""Commands that answer questions about events."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runtime.errors import TallyError
from schemas.identity import is_interaction_id
from schemas.outcome import Deleted, DuplicateOf, Moved, Outcome, RejectedFor, Stored
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, checked_namespace, load_settings, needs
from tally.cli.output import answers, cell, out, say

if TYPE_CHECKING:
    from runtime.clickhouse import ClickHouse
    from tally.tail import TailEvent

Verdict = Literal["stored", "duplicate", "rejected", "deleted", "moved"]


@needs("worker")
def lookup(
    interaction_id: Annotated[str, typer.Argument(help="Interaction id: int_ and 32 hex digits.")],
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show the outcome of one event: its record, its owner if it is a duplicate, its rejection, or its deletion.

    Exits 1 for an id that is unknown, or in flight: accepted and not stored yet.

    Example: tally lookup int_0198b2c0a1b27c3d8e4f5061728394a5
    """
    from tally.answering import queried
    from tally.lookup import look_up

    settings = load_settings(data_dir)
    if not is_interaction_id(interaction_id):
        raise TallyError(f"{interaction_id!r} is not an interaction id: int_ and the 32 hex digits of a UUIDv7")

    space = namespace or settings.namespace
    outcome, in_flight = queried(settings, lambda database: look_up(settings, database, space, interaction_id))
    answer = _describe(outcome)
    if answer is None and in_flight:
        raise TallyError(
            f"interaction {interaction_id} is in flight: accepted, if it was ever sent, and not stored yet; "
            "`tally status` shows the lag"
        )
    if answer is None:
        raise TallyError(f"no interaction {interaction_id} in namespace {space!r}")
    if as_json:
        answer_json(answer)
    else:
        out.print_json(json.dumps(answer))


def _describe(outcome: Outcome | None) -> dict[str, Any] | None:
    match outcome:
        case Stored(row):
            return {"outcome": "stored", "record": _as_json(row)}
        case DuplicateOf(owner_id):
            return {"outcome": "duplicate", "duplicate_of": owner_id}
        case RejectedFor() as rejected:
            return {"outcome": "rejected", **rejected._asdict()}
        case Moved(partition, offset):
            return {"outcome": "moved", "partition": partition, "offset": offset}
        case Deleted():
            return {"outcome": "deleted"}
    return None


def _as_json(row: Mapping[str, Any]) -> Any:
    from schemas.record import encode_record

    return json.loads(encode_record(row))


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

    Examples: tally tail --type purchase; tally tail --verdict rejected --json
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
                    say(f"{each.events:,} events came too fast to be shown: narrow what is shown")
                elif as_json:
                    answer_json(each.model_dump())
                    answers.flush()
                else:
                    out.print(cell(_line(each)), soft_wrap=True)

    with suppress(TimeoutError):
        queried(settings, show, others=["kafka"])


def _line(seen: "TailEvent") -> str:
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
