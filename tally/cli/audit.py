"""`tally audit`."""

from typing import TYPE_CHECKING, Annotated

import typer

from tally.cli.options import AsJson, DataDir, Since, Until, answer_json, load_settings, needs, parse_range
from tally.cli.output import cell, out, say, table

if TYPE_CHECKING:
    from readers.audit import PartitionAudit
    from readers.deep_audit import DeepAudit
    from runtime.clickhouse import ClickHouse

_COUNTS = ("accepted", "stored", "duplicates", "rejected", "in_flight", "difference")
_SELDOM = ("deleted", "moved", "expired_unread", "expired_outcomes")


@needs("worker")
def audit(
    since: Since = None,
    until: Until = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also check every id, every owner and a sample of lookups.")
    ] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Prove from offsets that every accepted event has an outcome or is in flight.

    accepted = stored + duplicates + rejected + deleted + moved + in flight

    Exits 1 and names the offsets when the two sides differ.

    Examples:
        tally audit --json
        tally audit --deep
        tally audit --from 2026-11-22T14:00:00Z --to 2026-11-22T15:00:00Z
    """
    from readers.audit import audit as audit_partitions
    from readers.deep_audit import deep_audit
    from tally.answering import queried

    settings = load_settings(data_dir, "kafka", "clickhouse")
    begin, end = parse_range(since, until)

    async def run(database: "ClickHouse") -> "tuple[list[PartitionAudit], DeepAudit | None]":
        partitions = []
        async for partition in audit_partitions(settings, database, begin, end):
            partitions.append(partition)
            if not as_json:
                say(f"partition {partition.partition}: {'balances' if partition.balances else 'DOES NOT BALANCE'}")
        return partitions, await deep_audit(settings, database, begin, end) if deep else None

    partitions, found = queried(settings, run, others=["kafka"])
    balances = all(partition.balances for partition in partitions) and (found is None or found.balances)
    totals = {name: sum(getattr(partition, name) for partition in partitions) for name in (*_COUNTS, *_SELDOM)}
    if as_json:
        described = [partition.model_dump() for partition in partitions]
        deeper = {} if found is None else {"deep": found.model_dump()}
        answer_json({"balances": balances, **totals, "topic": settings.topic, "partitions": described, **deeper})
    else:
        _print(settings.topic, partitions, totals)
        if found is not None:
            _print_deep(found)
    if not balances:
        raise typer.Exit(1)


def _print(topic: str, partitions: "list[PartitionAudit]", totals: dict[str, int]) -> None:
    shown = [*_COUNTS[:-1], *(name for name in _SELDOM if totals[name]), _COUNTS[-1]]
    accounts = table(
        "partition",
        *(name.replace("_", " ") for name in shown),
        title=f"Audit of {topic}",
        keep=("partition", "difference", "accepted", "stored", "duplicates"),
    )
    for partition in partitions:
        accounts.add_row(partition.partition, *(f"{getattr(partition, name):,}" for name in shown))
    accounts.add_total("all", *(f"{totals[name]:,}" for name in shown))
    out.print(accounts)
    for partition in partitions:
        for what, offsets in (
            ("lost", partition.lost),
            ("removed from the log unread (cleanup.policy must be delete)", partition.holes),
            ("recorded twice", partition.recorded_twice),
        ):
            if offsets:
                out.print(f"partition {partition.partition}, {what}: offsets {', '.join(map(str, offsets))}")


def _print_deep(found: "DeepAudit") -> None:
    for what, wrong in (
        ("ids stored twice", found.ids_twice),
        ("events stored on two partitions", found.stored_apart),
        ("duplicates with a wrong owner", found.wrong_owners),
        ("moved events without a copy", found.lost_moves),
        (f"wrong answers among {found.looked_up:,} lookups", found.wrong_lookups),
    ):
        out.print(f"{what}: {len(wrong) or 'none'}", highlight=False)
        for each in wrong[:20]:
            out.print(cell(f"  {each}"))
