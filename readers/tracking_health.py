"""Health of the tracking as a metric: the report `health` of the last hour, for the namespaces with the most events."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from readers.health_turns import Excess, HealthTurns
from readers.report_statement import ReportError, ReportRequest
from readers.reports import ReportResult, run_report
from runtime.analytics import report_limits
from runtime.clickhouse import BoundParameters, ClickHouse, connect
from runtime.errors import reason_of
from runtime.http.best_effort import BestEffortRedis
from runtime.metrics import TRACKING_FAULT_EXCESS, label_of
from runtime.settings import Settings
from runtime.tasks import running
from schemas.analytics.health import CHECKS, HEALTH
from schemas.tables import INTERACTIONS, OUTCOMES

RANGE = timedelta(hours=1)
MAX_NAMESPACES = 20
"""Most namespaces that are measured: those with the most events in the range."""
MIN_SUPPORT = 100
"""Fewest events, executions, results or users of a check that is measured."""
_LOOKS_PER_TURN = 10
_MAX_PAUSE_S = 30.0
_MIN_PAUSE_S = 0.05
"""Ends of the interval at which a process looks whether it is its turn."""

log = logging.getLogger("tally.api")


@asynccontextmanager
async def measuring(settings: Settings, redis: BestEffortRedis) -> AsyncIterator[None]:
    """Measure until the block ends, over a connection of its own, so that no request waits for it."""
    async with connect(settings, lazily=True, threads=1) as database:
        health = TrackingHealth(settings, database, HealthTurns(settings, redis))
        try:
            async with running(health.refresh_periodically(), "measuring the health of the tracking"):
                yield
        finally:
            health.publish({})


class TrackingHealth:
    """Measurement of one process, and the samples of its metric."""

    def __init__(self, settings: Settings, database: ClickHouse, turns: HealthTurns) -> None:
        self._settings = settings.model_copy(update={"report_rows": max(settings.report_rows, len(CHECKS))})
        self._database = database
        self._turns = turns
        self._published: set[tuple[str, str]] = set()

    async def refresh_periodically(self) -> None:
        """Refresh the metric until cancelled."""
        every_s = self._settings.health_every_ms / 1000
        while True:
            await asyncio.sleep(max(_MIN_PAUSE_S, min(_MAX_PAUSE_S, every_s / _LOOKS_PER_TURN)))
            try:
                await self.refresh()
            except Exception as error:  # any error: without this task the metric would never be refreshed
                log.warning("the metric of the tracking's health is not refreshed: %s", reason_of(error))

    async def refresh(self) -> None:
        """Measure if it is this process's turn; else publish the numbers of the last turn, if they are known."""
        turn = await self._turns.take()
        numbers = turn.numbers
        if turn.is_own:
            numbers = await self._measure_or_log()
            await self._turns.end(numbers)
        if numbers is not None:
            self.publish(numbers)

    def publish(self, numbers: Excess) -> None:
        """Replace all samples. New values come before stale ones are removed: a scrape may be in between."""
        for (namespace, check), value in numbers.items():
            TRACKING_FAULT_EXCESS.labels(label_of(namespace), check).set(value)
        for namespace, check in self._published - numbers.keys():
            with suppress(KeyError):
                TRACKING_FAULT_EXCESS.remove(label_of(namespace), check)
        self._published = set(numbers)

    async def _measure_or_log(self) -> Excess:
        """Measure. An error is logged and leaves no numbers."""
        try:
            return await self._measure(datetime.now(UTC))
        except Exception as error:  # any error: the turn has to end, else the error repeats before the next one
            every_s = self._settings.health_every_ms / 1000
            log.warning("the tracking's health is not measured, next attempt in %g s: %s", every_s, reason_of(error))
            return {}

    async def _measure(self, until: datetime) -> Excess:
        """Measure the namespaces with the most events, one after another. Raises Unavailable."""
        found: dict[tuple[str, str], float] = {}
        for namespace in await self._largest_namespaces(until - RANGE, until):
            await self._turns.extend()
            request = ReportRequest(HEALTH.name, namespace, until - RANGE, until)
            try:
                found |= excess_of(await run_report(self._settings, self._database, request))
            except ReportError as error:
                log.warning("the tracking's health of namespace %s is not measured: %s", namespace, error)
        return found

    async def _largest_namespaces(self, since: datetime, until: datetime) -> list[str]:
        bind = BoundParameters()
        begin, end = bind.bind(since, "Int64"), bind.bind(until, "Int64")
        sql = f"""
SELECT namespace FROM (
    SELECT namespace, count() AS events FROM {INTERACTIONS}
    WHERE event_time >= {begin} AND event_time < {end} GROUP BY namespace
    UNION ALL
    SELECT namespace, count() AS events FROM {OUTCOMES}
    WHERE timestamp >= {begin} AND timestamp < {end} AND verdict IN ('duplicate', 'rejected') GROUP BY namespace
)
WHERE namespace != '' GROUP BY namespace ORDER BY sum(events) DESC, namespace LIMIT {MAX_NAMESPACES}"""
        rows = await self._database.rows(sql, bind.values, limits=report_limits(self._settings))
        return [namespace for (namespace,) in rows]


def excess_of(result: ReportResult) -> Excess:
    """Return share / allowed of each check that can fail and has MIN_SUPPORT observations."""
    return {
        (result.request.namespace, row["check"]): row["share"] / row["allowed"]
        for row in result.records()
        if row["allowed"] < 1 and row["of"] >= MIN_SUPPORT
    }
