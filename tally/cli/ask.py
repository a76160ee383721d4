"""Commands that answer questions about events."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from runtime.errors import TallyError
from schemas.identity import is_interaction_id
from schemas.outcome import Deleted, DuplicateOf, Moved, Outcome, RejectedFor, Stored
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import out


@needs("worker")
def lookup(
    interaction_id: Annotated[str, typer.Argument(help="Interaction id: int_ and 32 hex digits.")],
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show the outcome of one event: its record, its owner if it is a duplicate, its rejection, or its deletion.

    Exits 1 for an id that is unknown, or in flight: accepted and not stored yet.

    Examples:
        tally lookup int_0198b2c0a1b27c3d8e4f5061728394a5
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
            return {"outcome": "rejected", **{name: value or None for name, value in rejected._asdict().items()}}
        case Moved(partition, offset):
            return {"outcome": "moved", "partition": partition, "offset": offset}
        case Deleted():
            return {"outcome": "deleted"}
    return None


def _as_json(row: Mapping[str, Any]) -> Any:
    from schemas.record import encode_record

    return json.loads(encode_record(row))
