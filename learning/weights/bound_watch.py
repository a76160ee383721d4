"""Features whose weight stays at a bound, as a metric: such a feature is served at min_weight or max_weight for days.

Every API process measures for itself, over a connection of its own: one small query for each retriever with a learning
configuration.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from learning.estimators.weight_history import days_at_bound, weight_days
from learning.weights.counts import GLOBAL, Sums, read_sums
from learning.weights.history import today_utc
from runtime.clickhouse import ClickHouse, connect
from runtime.errors import reason_of
from runtime.learning_configs import LearningConfigs
from runtime.metrics import WEIGHT_DAYS_AT_CLIP, label_of
from runtime.settings import Settings
from runtime.tasks import running
from schemas.learning_config import LearningConfig

DAYS = 14
"""Days that are looked at, today included."""
MAX_SERIES = 200
"""Most features of all retrievers that are published: those that are at a bound for the most days."""
MAX_LABEL_CHARACTERS = 200
_MAX_FIRST_PAUSE_S = 60.0

log = logging.getLogger("tally.learning")

BoundFeature = tuple[str, str, str]
"""Namespace, retriever_id and feature_uri."""


@asynccontextmanager
async def watching_bounds(settings: Settings) -> AsyncIterator[None]:
    """Measure every TALLY_WEIGHT_BOUNDS_EVERY_MS until the block ends; not at all if that is 0."""
    every_s = settings.weight_bounds_every_ms / 1000
    if not every_s:
        yield
        return
    async with connect(settings, lazily=True, threads=1) as database:
        watch = BoundWatch(settings, database)
        try:
            async with running(watch.keep_measuring(every_s), "measuring features at a bound"):
                yield
        finally:
            watch.publish({})


class BoundWatch:
    """Measurement of one process, and the samples of its metric."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._database = database
        self._configs = LearningConfigs(settings, database)
        self._published: set[BoundFeature] = set()

    async def keep_measuring(self, every_s: float) -> None:
        """Measure from time to time until cancelled."""
        pause_s = min(every_s, _MAX_FIRST_PAUSE_S)
        while True:
            await asyncio.sleep(pause_s)
            pause_s = every_s
            try:
                self.publish(await self.measure())
            except Exception as error:  # any error: without this task the metric would never be refreshed
                log.warning("features at a bound are not measured, next attempt in %g s: %s", every_s, reason_of(error))

    async def measure(self) -> Mapping[BoundFeature, int]:
        """Return the days at a bound of features of the level global. Raises Unavailable."""
        await self._configs.refresh()
        found: dict[BoundFeature, int] = {}
        today = today_utc()
        for (namespace, retriever), held in sorted(self._configs.in_force.items()):
            rewards = held.config.rewards.in_micros()
            sums = await read_sums(self._database, namespace, retriever, [GLOBAL], rewards, today)
            days = await asyncio.to_thread(_days, sums[GLOBAL], held.config, today)
            found.update({(namespace, retriever, feature): number for feature, number in days.items()})
        most = sorted(found, key=lambda each: (-found[each], each))[:MAX_SERIES]
        return {each: found[each] for each in most}

    def publish(self, days: Mapping[BoundFeature, int]) -> None:
        """Replace all samples. New values come before stale ones are removed: a scrape may be in between."""
        labelled = {_labels(each): number for each, number in days.items()}
        for labels, number in labelled.items():
            WEIGHT_DAYS_AT_CLIP.labels(*labels).set(number)
        for labels in self._published - labelled.keys():
            with suppress(KeyError):
                WEIGHT_DAYS_AT_CLIP.remove(*labels)
        self._published = set(labelled)


def _labels(feature: BoundFeature) -> BoundFeature:
    namespace, retriever, uri = feature
    return label_of(namespace), retriever[:MAX_LABEL_CHARACTERS], uri[:MAX_LABEL_CHARACTERS]


def _days(sums: Sums, config: LearningConfig, today: int) -> dict[str, int]:
    return days_at_bound(weight_days(sums, config, today - DAYS + 1, today), config, today)
