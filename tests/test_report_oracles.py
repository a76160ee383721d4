"""Reports against independent computations: scipy, ir-measures, and a plain reference over the same events."""

import math
import random
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import ir_measures
import pytest
from ir_measures import RR, nDCG
from scipy import stats

from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from schemas.analytics import intervals
from schemas.analytics.comparison import UNIT
from schemas.analytics.metrics import COUNTED, EXECUTION_METRICS
from schemas.interaction import Interaction
from tests.analytics.loading import load
from tests.analytics_reference import (
    Observed,
    click_through_by_position,
    dated,
    executions_of,
    metrics_of,
    ms_to_first_click,
)
from tests.lab import Lab
from tests.reports_lab import rows_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RANGE = "namespace = 'default', since = '2026-01-01', until = '2026-04-01'"
EXACT = pytest.approx  # sums in another order differ in the last bits; reports have 9 decimals


def simulated(seed: int = 5, rate: float = 0.05) -> list[Interaction]:
    """Two days of searches, with some faulty tracking."""
    simulator = Simulator(seed, duplicates=0, bad=0.05, clock=lambda: NOON, backfill=Backfill(2, rate), users=300)
    known = {"unknown_type", "negative_position"}
    return [event for event in simulator if event.position >= 0 and not known & set(event.interaction_type)]


async def loaded(lab: Lab) -> list[Observed]:
    """Load simulated events, and return their executions by the reference."""
    events = simulated()
    await load(lab.database, "default", events)
    return executions_of(dated(events))


async def test_shares_have_wilson_intervals(lab: Lab) -> None:
    counts = [(0, 1), (1, 1), (0, 7), (7, 7), *((random.Random(n).randrange(n), n) for n in range(2, 400, 7)), (0, 0)]
    low, high = intervals.wilson("hits", "total")
    values = ", ".join(map(str, counts))
    found = await lab.rows(f"SELECT hits, total, {low}, {high} FROM values('hits UInt64, total UInt64', {values})")
    assert len(found) == len(counts)
    for hits, total, lower, upper in found:
        if total == 0:
            assert (lower, upper) == (None, None)
            continue
        wanted = stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert (lower, upper) == EXACT((wanted.low, wanted.high), abs=2e-9)


async def test_means_have_student_intervals(lab: Lab) -> None:
    for degrees, quantile in await lab.rows(
        f"SELECT number + 1 AS n, {intervals.student_quantile('n')} FROM numbers(3000)"
    ):
        assert quantile == EXACT(stats.t.ppf(0.975, degrees), rel=1e-6)
    low, high = intervals.student("avg(x)", "stddevSampStable(x)", "count()")
    for count in (1, 2, 3, 12, 200):
        data = [random.Random(count).expovariate(1) for _ in range(count)]
        ((lower, upper),) = await lab.rows(f"SELECT {low}, {high} FROM (SELECT arrayJoin({data}) AS x)")
        if count == 1:
            assert (lower, upper) == (None, None)
            continue
        half = float(stats.t.ppf(0.975, count - 1) * stats.sem(data))
        wanted = stats.tmean(data) - half, stats.tmean(data) + half
        assert (lower, upper) == EXACT(wanted, abs=1e-6)


async def test_the_interval_of_a_median_covers_it_and_is_no_wider_than_needed(lab: Lab) -> None:
    middle, low, high = intervals.median("range(toUInt64(n))")
    found = await lab.rows(f"SELECT n, {middle}, {low}, {high} FROM (SELECT number AS n FROM numbers(1500))")
    for n, median, lower, upper in found:
        if n == 0:
            assert median is None
            continue
        assert median == (n - 1) / 2
        if n < intervals.MIN_FOR_MEDIAN:
            assert (lower, upper) == (None, None)
            continue
        # The median is between the two order statistics unless too few or too many values are below it.
        assert 1 - 2 * stats.binom.cdf(lower, n, 0.5) >= 0.95
        assert 1 - 2 * stats.binom.cdf(lower + 2, n, 0.5) < 0.95
        assert lower + upper == n - 1


async def test_executions_equal_the_reference(lab: Lab) -> None:
    wanted = await loaded(lab)
    found = await lab.rows(
        "SELECT execution_id, retriever_id, user_id, session_id, query, results_shown, clicks, reciprocal_rank, ndcg, "
        f"ms_to_first_click, abandoned, refined, reward FROM executions({RANGE}) WHERE {COUNTED} ORDER BY execution_id"
    )
    assert len(found) == len(wanted) > 500
    for row, each in zip(found, sorted(wanted, key=lambda each: each.execution_id), strict=True):
        assert row[:7] == (
            *(each.execution_id, each.retriever_id, each.user_id, each.session_id),
            *(each.query, len(each.shown), len(each.clicked)),
        )
        assert row[7:9] == EXACT((each.reciprocal_rank, each.ndcg), abs=1e-12)
        assert row[9] == next(iter(ms_to_first_click([each])), None)
        assert row[10:] == (each.abandoned, each.refined, each.reward), each.execution_id


async def test_reports_equal_the_reference(lab: Lab) -> None:
    executions = await loaded(lab)
    rows = {row["retriever_id"]: row for row in await rows_of(lab, "retrievers")}
    for retriever, row in rows.items():
        group = [each for each in executions if each.retriever_id == retriever]
        wanted = metrics_of(group)
        assert row["executions"] == len(group)
        for metric in EXECUTION_METRICS:
            expected = wanted["reward_per_execution" if metric.name == "reward" else metric.name]
            assert row[metric.name] == EXACT(expected.mean, abs=1e-9), metric.name
            assert row[metric.support] == expected.size
    for row in await rows_of(lab, "positions"):
        expected = click_through_by_position(executions)[row["position"]]
        assert (row["impressions"], row["ctr"]) == EXACT((expected.size, expected.mean), abs=1e-9)


async def test_mrr_and_ndcg_equal_ir_measures(lab: Lab) -> None:
    executions = [each for each in await loaded(lab) if each.shown and set(each.clicked) <= set(each.shown)]
    kept = [each for each in executions if sorted(each.shown.values()) == list(range(len(each.shown)))]
    run = {each.execution_id: {doc: -float(place) for doc, place in each.shown.items()} for each in kept}
    clicks = {each.execution_id: dict.fromkeys(each.clicked, 1) for each in kept if each.clicked}
    wanted: dict[str, dict[Any, float]] = defaultdict(dict)
    for value in ir_measures.iter_calc([RR, nDCG @ 10], clicks, run):
        wanted[value.query_id][value.measure] = value.value
    found = await lab.rows(f"SELECT execution_id, reciprocal_rank, ndcg FROM executions({RANGE}) WHERE clicks > 0")
    rows = {execution: measures for execution, *measures in found}
    assert len(wanted) > 100
    for execution, measures in wanted.items():
        assert rows[execution] == EXACT([measures[RR], measures[nDCG @ 10]], abs=1e-6), execution


async def test_a_comparison_equals_scipy(lab: Lab) -> None:
    await loaded(lab)
    means = ", ".join(f"avgOrNullIf(toFloat64({each.value}), {each.base})" for each in EXECUTION_METRICS)
    units = await lab.rows(
        f"SELECT {UNIT}, retriever_id, {means} FROM executions({RANGE}) WHERE {COUNTED} GROUP BY ALL ORDER BY ALL"
    )
    found = {row["metric"]: row for row in await rows_of(lab, "compare", a="dense", b="hybrid")}
    p_values = {}
    for number, metric in enumerate(EXECUTION_METRICS, 2):
        a, b = (
            [row[number] for row in units if row[1] == arm and row[number] is not None] for arm in ("dense", "hybrid")
        )
        row = found[metric.name]
        assert (row["users_a"], row["users_b"]) == (len(a), len(b))
        assert (row["a"], row["b"]) == EXACT((stats.tmean(a), stats.tmean(b)), abs=1e-8)
        if len({*a, *b}) == 1:
            assert row["p_value"] is None
            continue
        test = stats.ttest_ind(b, a, equal_var=False)
        interval = test.confidence_interval()
        p_values[metric.name] = float(test.pvalue)
        wanted = test.pvalue, interval.low, interval.high
        assert (row["p_value"], row["difference_low"], row["difference_high"]) == EXACT(wanted, abs=1e-7)
    adjusted = stats.false_discovery_control(list(p_values.values()))
    assert [found[name]["adjusted_p"] for name in p_values] == EXACT(list(adjusted), abs=1e-7)
    counts = [sum(row[1] == arm for row in units) for arm in ("dense", "hybrid")]
    assert found["ctr"]["sample_ratio_p"] == EXACT(stats.chisquare(counts).pvalue, abs=1e-9)
    uneven = (await rows_of(lab, "compare", a="dense", b="hybrid", share_b=0.3))[0]["sample_ratio_p"]
    assert uneven == EXACT(stats.chisquare(counts, [0.7 * sum(counts), 0.3 * sum(counts)]).pvalue, abs=1e-9)


async def test_the_users_needed_give_the_power_that_is_promised(lab: Lab) -> None:
    """The power of Welch's test at that size, for the effect asked for, is 80 %."""
    await loaded(lab)
    for row in await rows_of(lab, "compare", a="dense", b="hybrid", effect=0.1):
        if row["users_needed"] is None or row["detectable"] is None:
            continue
        error = row["detectable"] / (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
        per_user = error**2 / (1 / row["users_a"] + 1 / row["users_b"])  # of equal variances
        standard_error = math.sqrt(2 * per_user / row["users_needed"])
        power = stats.norm.cdf(0.1 * row["a"] / standard_error - stats.norm.ppf(0.975))
        assert power == EXACT(0.8, abs=0.1), row["metric"]
