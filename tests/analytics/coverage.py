"""Coverage of intervals: how often the 95 % interval of a report holds the truth of the simulator."""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from producers.simulation.truth import truth_of
from readers.report_statement import ReportRequest
from readers.reports import run_report
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.analytics.overview import ALL_METRICS
from tests.analytics.loading import load

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAYS, RATE, USERS = 7, 0.02, 2_000
"""About 12,000 events and 1,300 executions for each seed."""
TRUTH_NAMES = {"reward": "reward_per_execution", "ms_to_click": "median_ms_to_first_click"}
FEW = 10
"""Number of the most frequent queries and documents whose click-through is compared."""
RARE = 5
"""Fewest expected hits and misses of a share whose interval is counted."""


async def covered(settings: Settings, database: ClickHouse, seeds: range) -> AsyncIterator[Mapping[str, bool]]:
    """Yield, for each seed, whether the interval of each figure holds the truth."""
    for seed in seeds:
        simulator = Simulator(seed, duplicates=0, clock=lambda: NOON, backfill=Backfill(DAYS, RATE), users=USERS)
        await load(database, f"seed-{seed}", simulator)
        expected = truth_of(simulator)["expected"]
        found: dict[str, bool] = {}
        for figure, row, column, support, truth in [
            each async for each in _figures(settings, database, f"seed-{seed}", expected)
        ]:
            low, high = row[f"{column}_low"], row[f"{column}_high"]
            if low is not None and _is_frequent(column, truth, row[support]):
                found[figure] = low <= truth <= high
        yield found


def _is_frequent(column: str, truth: float, support: int) -> bool:
    """Return whether a share is expected to be hit and missed RARE times; other figures always are."""
    return column in ("mrr", "ndcg", "mean_clicks", "reward", "ms_to_click") or (
        min(truth, 1 - truth) * support >= RARE
    )


Figure = tuple[str, Mapping[str, Any], str, str, float]
"""Name, row, column and support of a rate, and its truth."""


async def _figures(
    settings: Settings, database: ClickHouse, namespace: str, expected: Mapping[str, Any]
) -> AsyncIterator[Figure]:
    async def rows(name: str, **parameters: Any) -> list[dict[str, Any]]:
        since = NOON - timedelta(days=DAYS + 1)
        request = ReportRequest(name, namespace, since, NOON + timedelta(days=1), parameters)
        return (await run_report(settings, database, request)).records()

    for figure in _metrics("overall", (await rows("overview", by="all"))[0], expected["overall"]):
        yield figure
    groups = ("retrievers", await rows("retrievers")), ("devices", await rows("overview", by="metadata.device"))
    for kind, found in groups:
        for row in found:
            name = row.get("retriever_id") or row["period"]
            for figure in _metrics(name, row, expected[kind][name]):
                yield figure
    for row in await rows("positions"):
        truth = expected["positions"][row["position"]]["ctr"]
        yield f"position {row['position']} ctr", row, "ctr", "impressions", truth
    for row in (await rows("queries"))[:FEW]:
        yield f"query {row['text']} ctr", row, "ctr", "with_results", expected["queries"][row["text"]]["ctr"]
    documents = [row for row in await rows("features") if row["feature_id"] in expected["documents"]]
    for row in documents[:FEW]:
        yield f"{row['feature_id']} ctr", row, "ctr", "impressions", expected["documents"][row["feature_id"]]["ctr"]
    before = 1.0
    for row in (await rows("funnel"))[1:]:
        truth = expected["funnel"][row["name"]]
        yield f"funnel {row['name']}", row, "share_of_previous", "before", truth / before
        before = truth


def _metrics(group: str, row: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[Figure]:
    for metric in ALL_METRICS:
        truth = expected[TRUTH_NAMES.get(metric.name, metric.name)]
        if truth is not None:
            yield f"{group} {metric.name}", row, metric.name, metric.support, truth
