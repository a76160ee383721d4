"""Check of counts: those in force beside a count from scratch, row by row, and the state of a namespace's counts."""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from learning.weights.aggregates import CountedDay
from learning.weights.count_look import ConfiguredShapes, Shapes, known_days, look, look_at_log, progress_and_shapes
from learning.weights.count_progress import CountProgress, RetrieverDays, joined, read_progress
from learning.weights.count_sql import (
    SELECT_COUNTED_DAYS,
    day_parameters,
    days_by_retriever,
    select_difference,
)
from runtime.analytics import range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms
from schemas.tables import LEARNING_COUNTS, LEARNING_DAYS

_RESULTS_IN_FORCE = f"""
SELECT retriever_id, sum(results) FROM {LEARNING_COUNTS} FINAL
WHERE namespace = {{namespace:String}} AND (retriever_id, day, generation) IN (
    SELECT retriever_id, day, max(generation) FROM {LEARNING_DAYS}
    WHERE namespace = {{namespace:String}} GROUP BY retriever_id, day
) AND level = 'global' GROUP BY retriever_id"""


class CountCheck(NamedTuple):
    """Result of a check of a namespace."""

    checked: int
    """Days of retrievers that were counted from scratch."""
    differing: tuple[CountedDay, ...]
    """Days whose counts are wrong."""
    waiting: tuple[CountedDay, ...]
    """Days whose counts differ because events, deletions or a configuration are not counted yet."""


class RetrieverCounts(NamedTuple):
    """State of the counts of one retriever."""

    retriever: str
    days: int
    first_day: int | None
    last_day: int | None
    pending: int
    failed: int
    results: int
    """Results at the global level."""


class CountStatus(NamedTuple):
    """State of the counts of a namespace."""

    generation: int
    as_of: datetime | None
    """Time before which every stored event is in the counts; None before the first count has ended."""
    retrievers: tuple[RetrieverCounts, ...]


async def check_counts(
    settings: Settings, database: ClickHouse, namespace: str, checked: Callable[[int, int], None] = lambda *_: None
) -> CountCheck:
    """Count every day of a namespace from scratch, and compare the rows. Raises Unavailable, RangeTooLarge.

    `checked` is called after each day with the number of days so far and of all.
    """
    before, shapes, days = await _known(settings, database, namespace)
    different = []
    for number, each in enumerate(days, 1):
        sql, values = (
            select_difference(shapes.get(each.retriever)),
            day_parameters(namespace, each.retriever, each.day),
        )
        with range_errors(settings, f"the check of {each}"):
            if await database.rows(sql, values, limits=report_limits(settings)):
                different.append(each)
        checked(number, len(days))
    waiting: RetrieverDays = {}
    if different:
        log = await look_at_log(settings, database, {namespace: before})
        later = await look(settings, database, namespace, log, before, shapes)
        waiting = joined(before.pending, later.touched)
    late = {each for each in different if each.day in waiting.get(each.retriever, ())}
    return CountCheck(len(days), tuple(each for each in different if each not in late), tuple(sorted(late)))


async def differences(settings: Settings, database: ClickHouse) -> list[str]:
    """Return namespace/retriever/day of every count that is wrong, although its progress says that it is whole."""
    found = []
    shapes = ConfiguredShapes(settings, database)
    await shapes.refresh()
    for namespace in sorted(shapes.namespaces | (await read_progress(database)).keys()):
        check = await check_counts(settings, database, namespace)
        found += [f"{namespace}/{each}" for each in check.differing]
    return found


async def count_status(settings: Settings, database: ClickHouse, namespace: str) -> CountStatus:
    """Return the state of a namespace's counts. Raises Unavailable, RangeTooLarge."""
    before, shapes, _ = await _known(settings, database, namespace)
    where = {"namespace": namespace}
    counted = days_by_retriever(await database.rows(SELECT_COUNTED_DAYS, where))
    with range_errors(settings, "the state of counts"):
        rows = await database.rows(_RESULTS_IN_FORCE, where, limits=report_limits(settings))
    results = {name: int(total) for name, total in rows}
    found = []
    for name in sorted(shapes):
        days = counted.get(name, frozenset())
        first, last = (min(days), max(days)) if days else (None, None)
        pending, failed = (len(some.get(name, ())) for some in (before.pending, before.failed))
        found.append(RetrieverCounts(name, len(days), first, last, pending, failed, results.get(name, 0)))
    as_of = from_epoch_ms(before.as_of_ms) if before.as_of_ms else None
    return CountStatus(before.generation, as_of, tuple(found))


async def _known(
    settings: Settings, database: ClickHouse, namespace: str
) -> tuple[CountProgress, Shapes, list[CountedDay]]:
    """Return progress, shapes, and all days with events or counts, in order."""
    before, shapes = await progress_and_shapes(settings, database, namespace)
    days = await known_days(settings, database, namespace)
    return before, shapes, sorted((CountedDay(name, day) for name, some in days.items() for day in some), key=_by_date)


def _by_date(each: CountedDay) -> tuple[int, str]:
    return each.day, each.retriever
