"""Expected metrics of groups of executions: the definitions, applied to the enumeration.

Executions are those with results shown (S) or with zero results. ctr, abandonment, conversion and the funnel are shares
of S; mean_clicks, mrr and ndcg are means over S; the other shares and the reward are over all executions. Duplicates,
late events and faults are not part of the expectation.
"""

from collections.abc import Mapping

import numpy as np

from producers.simulation.behaviour import (
    CONTINUES_AFTER_ZERO,
    CONTINUES_WITHOUT_CLICK,
    DEVICES,
    FILTER_TOGGLED,
    MAX_DEPTH_SHOWN,
    MEAN_DELAY_MS,
    REFINEMENT_RECORDED,
    click_delay_ms,
)
from producers.simulation.expected import Enumeration, Floats
from producers.simulation.world import RETRIEVERS

Metrics = dict[str, float | None]

_LONGEST_FIRST_CLICK_MS = 120_000


def metrics_of(found: Enumeration, group: Floats | float = 1.0, *, has_median: bool = True) -> Metrics:
    """Return the metrics of the cells where `group`, which broadcasts to cells without positions, is 1.

    A metric without executions is None. `share` is the group's share of all executions.
    """
    each, cells = found.each, found.cells
    runs, continuing = found.runs.all[..., 0] * group, found.runs.continuing[..., 0] * group
    shown = runs * cells.has_results
    total, with_results = float(runs.sum()), float(shown.sum())
    # Every execution without a click that continues is refined; some send a query_refinement and are not abandoned.
    refined = np.where(cells.has_results == 1, each.no_click * CONTINUES_WITHOUT_CLICK, CONTINUES_AFTER_ZERO)
    untouched = each.quiet * (1 - FILTER_TOGGLED) * cells.has_results
    abandoned = untouched * (runs - continuing * CONTINUES_WITHOUT_CLICK * REFINEMENT_RECORDED)

    def over(amount: Floats, executions: float) -> float | None:
        return float(amount.sum()) / executions if executions else None

    metrics: Metrics = {
        "share": total / float(found.runs.all.sum()),
        "ctr": over(shown * (1 - each.no_click), with_results),
        "mean_clicks": over(shown * each.clicks, with_results),
        "mrr": over(shown * each.reciprocal_rank, with_results),
        "ndcg": over(shown * each.ndcg, with_results),
        "abandonment": over(abandoned, with_results),
        "conversion": over(shown * each.purchase, with_results),
        "zero_result_rate": over(runs * (1 - cells.has_results), total),
        "refinement_rate": over(continuing * refined, total),
        "reward_per_execution": over(shown * each.reward, total),
    }
    if has_median:
        metrics["median_ms_to_first_click"] = median_ms_to_first_click(found, group) if with_results else None
    return metrics


def median_ms_to_first_click(found: Enumeration, group: Floats | float = 1.0) -> float | None:
    """Return the median time in ms from the impressions to the first click of executions with a click; None of none.

    The first click comes before t unless no position was clicked before t: the distribution is a mixture, over cells,
    of 1 - product over positions of 1 - P(click) * P(delay < t). The median is found by bisection.
    """
    clicked = found.cells.clicked
    weights = found.runs.all[..., 0] * group
    shortest = np.array([click_delay_ms(position) for position in range(MAX_DEPTH_SHOWN)])

    def clicked_before(ms: float) -> float:
        arrived = -np.expm1(-np.maximum(ms - shortest, 0) / MEAN_DELAY_MS)
        return float((weights * (1 - np.prod(1 - clicked * arrived, axis=-1))).sum())

    half = float((weights * (1 - found.each.no_click)).sum()) / 2
    if not half:
        return None
    low, high = 0.0, float(_LONGEST_FIRST_CLICK_MS)
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if clicked_before(middle) > half else (middle, high)
    return (low + high) / 2


def funnel_of(found: Enumeration) -> Metrics:
    """Return the shares of executions with results that have a click, an add_to_cart and a purchase.

    Purchases without `execution_id` are included: a report attributes them to the execution of the click.
    """
    shown = found.runs.all[..., 0] * found.cells.has_results
    reached = {"click": 1 - found.each.no_click, "add_to_cart": found.each.cart, "purchase": found.each.any_purchase}
    return {name: float((shown * share).sum() / shown.sum()) for name, share in reached.items()}


def by_position(found: Enumeration, group: Floats | float = 1.0) -> list[Metrics]:
    """Return impressions per execution, and the click-through of shown results, for each position."""
    weights = found.runs.all * np.expand_dims(np.asarray(group), -1)
    total = float(weights.sum())
    axes = tuple(range(weights.ndim - 1))
    impressions, clicks = ((weights * of).sum(axis=axes) for of in (found.cells.shown, found.cells.clicked))
    return [
        {
            "position": position,
            "impressions_per_execution": float(impressions[position]) / total,
            "ctr": float(clicks[position] / impressions[position]) if impressions[position] else None,
        }
        for position in range(MAX_DEPTH_SHOWN)
    ]


def by_document(found: Enumeration) -> dict[str, Metrics]:
    """Return impressions per execution and click-through of each document that is ever shown, by its id."""
    weights, numbers = found.runs.all, np.broadcast_to(found.cells.document, found.cells.clicked.shape)
    size = len(found.world.documents)

    def of_documents(amount: Floats) -> Floats:
        return np.bincount(numbers.ravel(), np.broadcast_to(amount, numbers.shape).ravel(), size).astype(np.float64)

    impressions, clicks = of_documents(weights * found.cells.shown), of_documents(weights * found.cells.clicked)
    total = float(weights.sum())
    return {
        document.id: {"impressions_per_execution": float(seen) / total, "ctr": float(chosen / seen)}
        for document, seen, chosen in zip(found.world.documents, impressions, clicks, strict=True)
        if seen
    }


def of_retriever(number: int) -> Floats:
    """Return the group of a retriever's executions."""
    return _group(0, number, len(RETRIEVERS))


def of_device(number: int) -> Floats:
    """Return the group of a device's executions."""
    return _group(3, number, len(DEVICES))


def of_query(number: int, queries: int) -> Floats:
    """Return the group of a query's executions."""
    return _group(1, number, queries)


def _group(axis: int, number: int, size: int) -> Floats:
    """Return 1 for one place of an axis of the cells, and 0 for the others."""
    group = np.zeros([size if each == axis else 1 for each in range(5)])
    group.flat[number] = 1
    return group


def expected_metrics(found: Enumeration) -> Mapping[str, object]:
    """Return every expected metric, by group."""
    retrievers = {each.name: of_retriever(number) for number, each in enumerate(RETRIEVERS)}
    queries = found.world.queries
    return {
        "overall": metrics_of(found),
        "funnel": funnel_of(found),
        "positions": by_position(found),
        "retrievers": {
            name: {**metrics_of(found, group), "positions": by_position(found, group)}
            for name, group in retrievers.items()
        },
        "devices": {each.name: metrics_of(found, of_device(number)) for number, each in enumerate(DEVICES)},
        "queries": {
            query.text: metrics_of(found, of_query(number, len(queries)), has_median=False)
            for number, query in enumerate(queries)
        },
        "documents": by_document(found),
    }
