"""Simulated experiments: how often `compare` finds a difference that is there, or is not there."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from producers.simulation.simulator import Simulator
from producers.simulation.world import RETRIEVERS
from readers.report_statement import ReportRequest
from readers.reports import run_report
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.definition import ParameterValue
from schemas.interaction import Interaction
from tests.analytics.loading import BEGIN, load

GROUPS = ("a", "b")
POPULATION = 20_000
"""Users of a simulation, from whom the users of a group are drawn."""
END = BEGIN + timedelta(days=365)


def visitors(seed: int, count: int, lift: float) -> Iterator[Interaction]:
    """Yield the events of the first sessions in which `count` users or anonymous visitors are seen."""
    lifts = {retriever.name: lift for retriever in RETRIEVERS}
    seen = set[str]()
    for event in Simulator(seed, duplicates=0, users=POPULATION, lifts=lifts):
        seen.add(event.user_id or event.session_id or "")
        if len(seen) > count:
            return
        yield event


def _of_group(events: Iterator[Interaction], group: str) -> Iterator[Interaction]:
    """Make the users and executions of two groups distinct."""
    for event in events:
        names = {
            name: f"{group}-{value}"
            for name in ("user_id", "session_id", "execution_id")
            if (value := getattr(event, name)) is not None
        }
        yield event.model_copy(update=names)


async def experiment(
    settings: Settings, database: ClickHouse, seed: int, users: int, *, lift: float = 1.0, effect: float = 0.05
) -> dict[str, dict[str, Any]]:
    """Simulate an experiment in which group B's attraction is `lift` times A's, and return the rows of `compare`."""
    namespace = f"experiment-{seed}"
    for number, (group, factor) in enumerate(zip(GROUPS, (1.0, lift), strict=True)):
        events = _of_group(visitors(2 * seed + number, users, factor), group)
        await load(database, namespace, events, first=number * 10**9, split=group)
    parameters: dict[str, ParameterValue | None] = {"a": "a", "b": "b", "of": "metadata.split", "effect": effect}
    request = ReportRequest("compare", namespace, BEGIN, END, parameters)
    return {row["metric"]: row for row in (await run_report(settings, database, request)).records()}


def rejections(rows: dict[str, dict[str, Any]], column: str) -> set[str]:
    """Return the metrics whose p-value is below 0.05."""
    return {name for name, row in rows.items() if row[column] is not None and row[column] < 0.05}
