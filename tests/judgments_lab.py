"""Judgments of tests."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from learning.estimators.curve import PropensityCurve, PropensityPoint
from learning.judgments import CurvesOf, JudgmentMethod, JudgmentRequest, Judgments, judge
from learning.scope import LearningScope
from producers.simulation.behaviour import DEVICES
from producers.simulation.simulator import Simulator
from producers.simulation.timeline import Backfill
from schemas.interaction import Interaction
from tests.analytics.loading import load
from tests.lab import Lab, click

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
SINCE, UNTIL = NOON - timedelta(days=60), NOON + timedelta(days=1)


def simulated(days: float, rate: float, seed: int = 1) -> Simulator:
    """Return a simulation that ends at NOON, without duplicates."""
    return Simulator(seed, duplicates=0, clock=lambda: NOON, backfill=Backfill(days, rate))


def curves_of(*curves: PropensityCurve) -> CurvesOf:
    """Return a source of known curves."""

    async def known(*_: object) -> tuple[PropensityCurve, ...]:
        return curves

    return known


def curve_of(values: Iterable[float | None], segment: str = "") -> PropensityCurve:
    """Return a curve with these propensities."""
    points = (PropensityPoint(position, 1, 1, 1, value, None, None, "") for position, value in enumerate(values))
    return PropensityCurve(segment, "em", 0, tuple(points))


TRUE_CURVES = curves_of(*(
    curve_of([device.examination(position) for position in range(device.depth)], device.name) for device in DEVICES
))  # fmt: skip
"""Examination of the simulation, by `metadata.device`."""


async def judged(
    lab: Lab,
    namespace: str = "default",
    retriever: str = "hybrid",
    method: JudgmentMethod = "ctr",
    *,
    by: tuple[str, ...] = (),
    curves: CurvesOf = TRUE_CURVES,
    **parameters: Any,
) -> Judgments:
    """Judge the events around NOON."""
    scope = LearningScope(namespace, retriever, SINCE, UNTIL, by)
    return await judge(lab.settings, lab.database, scope, JudgmentRequest(method, **parameters), curves)


def shown(query: str | None, document: str, execution: str, *types: str, **fields: Any) -> Iterator[Interaction]:
    """Yield an impression at NOON and an event for each further type."""
    snapshot = None if query is None else {"text": query}
    about = {"retriever_id": "r", "query_snapshot": snapshot, "occurred_at": NOON, **fields}
    for kind in ("impression", *types):
        yield click(document, execution, interaction_type=[kind], **about)


async def stored(lab: Lab, namespace: str, *results: Sequence[str | None], **fields: Any) -> None:
    """Store the events of results, given as the arguments of `shown`."""
    events = [event for each in results for event in shown(*each, **fields)]  # type: ignore[arg-type]
    await load(lab.database, namespace, events)
