"""Looks for touched days: those whose counts new events, deletions, retention or another configuration would change.

A look compares the tables with the progress of the last one. It finds new events by their offsets. Rows become visible
out of order within the last insert of each worker, or where a cluster's nodes lag, so the events in the tail of each
partition are counted again. A tombstone has no retriever any more, but keeps its day.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

from learning.weights.count_progress import CountProgress, CountShape, Ends, RetrieverDays, joined, read_progress
from learning.weights.count_sql import (
    SELECT_COUNTED_DAYS,
    SELECT_EVENT_DAYS,
    SELECT_EXPIRED,
    SELECT_PARTITIONS,
    SELECT_TOMBSTONES,
    days_by_retriever,
    merged_ends,
    select_ends,
    select_new_events,
)
from runtime.analytics import range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.learning_configs import LearningConfigs
from runtime.settings import Settings
from schemas.tables import LEARNING_CONFIGS

GROUPS_IN_FLIGHT = 2
"""Rows of one worker that may become visible after higher offsets, as a multiple of TALLY_BATCH_ROWS."""

_DELETED_CONFIGS = f"""
SELECT namespace, retriever_id FROM {LEARNING_CONFIGS} GROUP BY namespace, retriever_id
HAVING argMax(config, version) = ''
"""
_NOW_MS = "SELECT toUnixTimestamp64Milli(now64(3))"

Shapes = Mapping[str, CountShape]


class ConfiguredShapes:
    """Shapes of the counts of every retriever with a learning configuration."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._database = database
        self.configs = LearningConfigs(settings, database)
        self._deleted: set[tuple[str, str]] = set()

    async def refresh(self) -> None:
        """Read the configurations. Raises Unavailable."""
        # Deletions last: a configuration that is deleted in between has no shape, instead of that of its last count.
        await self.configs.refresh()
        self._deleted = {(space, name) for space, name in await self._database.rows(_DELETED_CONFIGS)}

    @property
    def namespaces(self) -> set[str]:
        """Namespaces with configurations."""
        return {namespace for namespace, _ in self.configs.in_force}

    def of(self, namespace: str, before: Shapes) -> dict[str, CountShape]:
        """Return the shapes by retriever. A configuration that only a newer version knows keeps its shape `before`."""
        kept = {name: shape for name, shape in before.items() if (namespace, name) not in self._deleted}
        found = {
            name: CountShape.of(each.config)
            for (space, name), each in self.configs.in_force.items()
            if space == namespace
        }
        return dict(sorted({**kept, **found}.items()))


class LogLook(NamedTuple):
    """Ends of all partitions, read at a time."""

    at_ms: int
    """ClickHouse's time since 1970 in ms, before the ends were read."""
    ends: Ends
    overlap: int


class Look(NamedTuple):
    """Days that a namespace's counts lack, and its progress once they are counted."""

    progress: CountProgress
    """Without the touched days among its pending ones."""
    touched: RetrieverDays


async def look_at_log(settings: Settings, database: ClickHouse, known: Mapping[str, CountProgress]) -> LogLook:
    """Return the ends of all partitions. Raises Unavailable, RangeTooLarge."""
    overlap = GROUPS_IN_FLIGHT * settings.batch_rows
    ((at_ms,),) = await database.rows(_NOW_MS)
    ends: Ends = {}
    for each in known.values():
        ends = merged_ends(ends, {
            (topic, part): end - 1 for topic, of_topic in each.ends.items() for part, end in enumerate(of_topic)
        })  # fmt: skip
    rows = await database.rows(SELECT_PARTITIONS)
    ends = merged_ends(ends, {(topic, part): -1 for topic, parts in rows for part in range(parts)})
    sql, values = select_ends(ends)
    with range_errors(settings, "the look for new events"):
        found = await database.rows(sql, values, limits=report_limits(settings))
    highest = {(topic, int(partition)): int(offset) for topic, partition, offset in found}
    return LogLook(int(at_ms), merged_ends(ends, highest), overlap)


async def look(
    settings: Settings,
    database: ClickHouse,
    namespace: str,
    log: LogLook,
    before: CountProgress,
    shapes: Shapes,
) -> Look:
    """Return the days that events, deletions, retention and configurations have touched since the progress `before`.

    Raises Unavailable, and RangeTooLarge where a statement exceeds the bounds of reports.
    """
    with range_errors(settings, "the look for touched days"):
        reading = _Reading(database, namespace, report_limits(settings))
        expired = {str(topic): int(month) for topic, month in await reading.rows(SELECT_EXPIRED)}
        fresh, tail = await reading.new_events(log, before, shapes)
        tombstones = {int(day): int(count) for day, count in await reading.rows(SELECT_TOMBSTONES)}
        counted = days_by_retriever(await reading.rows(SELECT_COUNTED_DAYS))
        whole = [name for name, shape in shapes.items() if before.shapes.get(name) != shape]
        all_days = days_by_retriever(await reading.rows(SELECT_EVENT_DAYS, {"retrievers": whole})) if whole else {}
    touched_days = {day for day, count in tombstones.items() if before.tombstones.get(day) != count}
    last_expired = _last_day(
        max((month for topic, month in expired.items() if before.expired.get(topic) != month), default=0)
    )
    gone = {name: days for name, days in counted.items() if name in before.shapes and name not in shapes}
    changed = {name: counted.get(name, frozenset()) for name in whole}
    of_all = {
        name: frozenset(day for day in days if day in touched_days or day <= last_expired)
        for name, days in counted.items()
        if name in shapes
    }
    touched = joined(fresh, all_days, changed, gone, of_all)
    progress = CountProgress(0, shapes, log.ends, log.overlap, tail, tombstones, expired, as_of_ms=log.at_ms)
    return Look(progress, {name: days for name, days in touched.items() if days})


async def progress_and_shapes(settings: Settings, database: ClickHouse, namespace: str) -> tuple[CountProgress, Shapes]:
    """Return the progress in force of a namespace, and the shapes of its counts. Raises Unavailable."""
    configured = ConfiguredShapes(settings, database)
    await configured.refresh()
    before = (await read_progress(database, namespace)).get(namespace, CountProgress())
    return before, configured.of(namespace, before.shapes)


async def known_days(settings: Settings, database: ClickHouse, namespace: str) -> RetrieverDays:
    """Return the days of configured retrievers with events or counts. Raises Unavailable, RangeTooLarge."""
    _, shapes = await progress_and_shapes(settings, database, namespace)
    with range_errors(settings, "the look for days"):
        reading = _Reading(database, namespace, report_limits(settings))
        with_events = await reading.rows(SELECT_EVENT_DAYS, {"retrievers": list(shapes)})
        counted = await reading.rows(SELECT_COUNTED_DAYS)
    return joined(days_by_retriever(with_events), days_by_retriever(counted))


class _Reading:
    """Statements about one namespace."""

    def __init__(self, database: ClickHouse, namespace: str, limits: Mapping[str, Any]) -> None:
        self._database = database
        self._namespace = namespace
        self._limits = limits

    async def rows(self, sql: str, values: Mapping[str, Any] | None = None) -> Any:
        """Return the rows of a statement, bounded as reports are."""
        bound = {**(values or {}), "namespace": self._namespace}
        return await self._database.rows(sql, bound, limits=self._limits)

    async def new_events(
        self, log: LogLook, before: CountProgress, shapes: Shapes
    ) -> tuple[RetrieverDays, dict[str, dict[int, int]]]:
        """Return the days of new events of known retrievers, and the events in the tail by retriever and day."""
        sql, values = select_new_events(before.ends, before.overlap, log.ends, log.overlap)
        fresh: dict[str, set[int]] = defaultdict(set)
        tail_before: dict[tuple[str, int], int] = {}
        tail: dict[str, dict[int, int]] = {}
        for retriever, day, new, older, present in await self.rows(sql, {**values, "retrievers": list(shapes)}):
            if new:
                fresh[retriever].add(int(day))
            if older:
                tail_before[retriever, int(day)] = int(older)
            if present:
                tail.setdefault(retriever, {})[int(day)] = int(present)
        known_before = {(name, day): count for name, days in before.tail.items() for day, count in days.items()}
        for name, day in tail_before.keys() | known_before.keys():
            if name in before.shapes and tail_before.get((name, day)) != known_before.get((name, day)):
                fresh[name].add(day)
        return {name: frozenset(days) for name, days in fresh.items() if name in shapes}, tail


def _last_day(month: int) -> int:
    """Return the last day of a month (YYYYMM), as days since 1970-01-01; -1 for 0."""
    if not month:
        return -1
    year, number = divmod(month, 100)
    first_of_next = date(year + number // 12, number % 12 + 1, 1)
    return (first_of_next - date(1970, 1, 1)).days - 1
