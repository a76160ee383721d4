"""`tally audit`."""

import asyncio

import typer
from rich.table import Table

from readers.audit import PartitionAudit
from readers.audit import audit as run_audit
from runtime import clickhouse
from runtime.settings import Settings
from tally.cli.options import AsJson, DataDir, answer_json, out, say

_COUNTS = ("accepted", "stored", "duplicates", "rejected", "in_flight", "difference")


def audit(as_json: AsJson = False, data_dir: DataDir = None) -> None:
    """Prove from offsets what became of every event: accepted = stored + duplicates + rejected + in flight.

    Exits 1 and names the offsets when it does not balance.

    Example: tally audit --json
    """
    settings = Settings.load(data_dir).need("kafka", "clickhouse")

    async def run() -> list[PartitionAudit]:
        async with clickhouse.connect(settings) as database:
            found = []
            async for partition in run_audit(settings, database):
                found.append(partition)
                if not as_json:
                    say(f"partition {partition.partition}: {'balances' if partition.balances else 'DOES NOT BALANCE'}")
            return found

    partitions = asyncio.run(run())
    balances = all(partition.balances for partition in partitions)
    totals = {name: sum(getattr(partition, name) for partition in partitions) for name in _COUNTS}
    if as_json:
        described = [partition.model_dump() for partition in partitions]
        answer_json({"balances": balances, **totals, "topic": settings.topic, "partitions": described})
    else:
        _print(settings.topic, partitions, totals)
    if not balances:
        raise typer.Exit(1)


def _print(topic: str, partitions: list[PartitionAudit], totals: dict[str, int]) -> None:
    table = Table("partition", *(name.replace("_", " ") for name in _COUNTS), title=f"Audit of {topic}")
    for partition in partitions:
        table.add_row(str(partition.partition), *(f"{getattr(partition, name):,}" for name in _COUNTS))
    table.add_section()
    table.add_row("all", *(f"{totals[name]:,}" for name in _COUNTS))
    out.print(table)
    for partition in partitions:
        for what, offsets in (("lost", partition.lost), ("recorded twice", partition.recorded_twice)):
            if offsets:
                out.print(f"partition {partition.partition}, {what}: offsets {', '.join(map(str, offsets))}")
