"""Counts of touched days: each day is counted as a whole from the stored events, and never changed.

One round of a namespace, in this order:

1. Look for touched days (`count_look.py`).
2. Take a generation.
3. Read the configurations again. For each day: insert its count under the generation, then publish it in
   `learning_days`.
4. Store the progress: what the look saw, and the days that are still pending.

A crash between two steps leaves rows of a generation that is not in force, or days that are counted again. Processes
that count at the same time make more such rows: see `count_progress.py` for the order of generations.
"""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import NamedTuple

from learning.weights import count_sql
from learning.weights.count_look import ConfiguredShapes, LogLook, Shapes, known_days, look, look_at_log
from learning.weights.count_progress import (
    CountProgress,
    CountShape,
    RetrieverDays,
    joined,
    new_generation,
    read_progress,
    save_progress,
)
from runtime.analytics import RangeTooLarge, range_errors, report_limits
from runtime.clickhouse import ClickHouse, connect
from runtime.metrics import LEARNING_COUNT_SECONDS, LEARNING_DAYS_COUNTED, LEARNING_ROWS_COUNTED
from runtime.settings import Settings
from schemas.tables import LEARNING_COUNTS, LEARNING_DAYS

_ROWS_OF = f"SELECT count() FROM {LEARNING_COUNTS} WHERE generation = {{generation:UInt64}}"

Failpoint = Callable[[str], Awaitable[None]]
"""Hook of tests at the failpoints of a round: looked, inserted, published, counted."""

log = logging.getLogger("tally.learning")


class CountedDay(NamedTuple):
    """Day of a retriever whose count is in force."""

    retriever: str
    day: int

    def __str__(self) -> str:
        """Return retriever and date."""
        return f"{self.retriever}/{date(1970, 1, 1) + timedelta(days=self.day)}"


class RoundResult(NamedTuple):
    """Result of one round of a namespace."""

    counted: tuple[CountedDay, ...]
    """Days in the order in which they were published."""
    rows: int
    progress: CountProgress

    @property
    def is_to_continue(self) -> bool:
        """Whether days are pending that have not failed."""
        return any(days - self.progress.failed.get(name, frozenset()) for name, days in self.progress.pending.items())


class LeaseLost(Exception):
    """Another process counts now."""


async def pass_on(_failpoint: str) -> None:
    """Do nothing: the hook of every process but those of tests."""


async def always() -> bool:
    """Hold no lease: for commands, whose counts are as harmless as those of a second leader."""
    return True


class DayCounter:
    """Counts touched days over one connection."""

    def __init__(
        self,
        settings: Settings,
        database: ClickHouse,
        *,
        holds_lease: Callable[[], Awaitable[bool]] = always,
        reached: Failpoint = pass_on,
    ) -> None:
        """`holds_lease` is called before each day; a count ends with LeaseLost where it returns False."""
        self._settings = settings
        self._database = database
        self._shapes = ConfiguredShapes(settings, database)
        self._holds_lease = holds_lease
        self._reached = reached

    async def namespaces(self) -> dict[str, CountProgress]:
        """Return the progress of every namespace with configurations or counts. Raises Unavailable."""
        await self._shapes.refresh()
        known = await read_progress(self._database)
        used = {name for name, each in known.items() if each.shapes or each.pending}
        return {name: known.get(name, CountProgress()) for name in sorted(self._shapes.namespaces | used)}

    def age_s(self, known: Mapping[str, CountProgress]) -> float:
        """Return the age in seconds of the oldest counts among the namespaces with configurations; 0 without any."""
        oldest_ms = min(
            (
                known.get(namespace, CountProgress()).as_of_ms or each.changed_at.timestamp() * 1000
                for (namespace, _), each in self._shapes.configs.in_force.items()
            ),
            default=None,
        )
        return 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)

    async def look_at_log(self, known: Mapping[str, CountProgress]) -> LogLook:
        """Return the ends of the log. Raises Unavailable, RangeTooLarge."""
        return await look_at_log(self._settings, self._database, known)

    async def run_round(
        self, namespace: str, log_look: LogLook, before: CountProgress, also: RetrieverDays | None = None
    ) -> RoundResult:
        """Count TALLY_AGGREGATES_DAYS_PER_ROUND touched and pending days, the earlier pending ones first.

        `before`: the progress in force. `also`: days to count besides. Raises Unavailable, RangeTooLarge and LeaseLost,
        after which the round is to be repeated.
        """
        began = time.monotonic()
        await self._shapes.refresh()
        seen = await look(
            self._settings, self._database, namespace, log_look, before, self._shapes.of(namespace, before.shapes)
        )
        await self._reached("looked")
        generation = await new_generation(self._database)
        await self._shapes.refresh()  # what a count depends on is read after its generation was taken
        shapes = self._shapes.of(namespace, before.shapes)
        due = joined(before.pending, seen.touched, also or {})
        counted, failed = await self._count(namespace, generation, shapes, _in_turn(due, before, generation))
        left = {name: days - {day for of, day in counted if of == name} for name, days in due.items()}
        pending = {name: days for name, days in left.items() if days}
        progress = seen.progress._replace(
            generation=generation,
            pending=pending,
            failed={
                name: days & pending.get(name, frozenset()) for name, days in joined(before.failed, failed).items()
            },
            as_of_ms=before.as_of_ms if pending else seen.progress.as_of_ms,
        )
        await save_progress(self._database, namespace, progress)
        ((rows,),) = await self._database.rows(_ROWS_OF, {"generation": generation}) if counted else ((0,),)
        LEARNING_DAYS_COUNTED.inc(len(counted))
        LEARNING_ROWS_COUNTED.inc(rows)
        LEARNING_COUNT_SECONDS.inc(time.monotonic() - began)
        return RoundResult(tuple(counted), int(rows), progress)

    async def _count(
        self, namespace: str, generation: int, shapes: Shapes, due: Iterable[CountedDay]
    ) -> tuple[list[CountedDay], RetrieverDays]:
        """Count days up to the limit of a round; returns those that are published and those that failed."""
        counted: list[CountedDay] = []
        failed: list[CountedDay] = []
        for each in due:
            if len(counted) + len(failed) >= self._settings.aggregates_days_per_round:
                break
            if not await self._holds_lease():
                raise LeaseLost
            try:
                await self._count_day(namespace, generation, shapes.get(each.retriever), each)
            except RangeTooLarge as error:
                log.warning("day %s of namespace %s is not counted: %s", each, namespace, error)
                failed.append(each)
                continue
            counted.append(each)
        await self._reached("counted")
        return counted, {
            of: frozenset(day for name, day in failed if name == of) for of in {name for name, _ in failed}
        }

    async def _count_day(self, namespace: str, generation: int, shape: CountShape | None, each: CountedDay) -> None:
        """Insert and publish the count of a day; without a shape it has no rows."""
        values = {**count_sql.day_parameters(namespace, each.retriever, each.day), "generation": generation}
        if shape is not None:
            with range_errors(self._settings, "the count of a day"):
                sql = count_sql.insert_count(count_sql.select_count(shape))
                await self._database.command(sql, values, limits=report_limits(self._settings))
        await self._reached("inserted")
        await self._publish(namespace, generation, each)
        await self._reached("published")

    async def _publish(self, namespace: str, generation: int, each: CountedDay) -> None:
        """Put the count of a day in force, unless one of a larger generation is."""
        row = {
            "namespace": namespace,
            "retriever_id": each.retriever,
            "day": f"{date(1970, 1, 1) + timedelta(days=each.day)}",
            "generation": generation,
        }
        await self._database.insert_row(LEARNING_DAYS, row, f"{namespace} {each.retriever} {each.day} {generation}")


def _in_turn(due: RetrieverDays, before: CountProgress, generation: int) -> list[CountedDay]:
    """Return days in the order of counting: earlier pending ones, then touched ones, each by date; then a failed one.

    Otherwise the retrievers whose present day is touched all the time would be counted before all others. Of the failed
    days, each of which may take TALLY_REPORT_TIMEOUT_MS, one is drawn by the generation.
    """
    failed = sorted(CountedDay(name, day) for name, days in before.failed.items() for day in days)

    def turn(each: CountedDay) -> tuple[bool, int, str]:
        return each.day not in before.pending.get(each.retriever, frozenset()), each.day, each.retriever

    all_days = (CountedDay(name, day) for name, days in due.items() for day in days)
    in_turn = sorted({*all_days} - {*failed}, key=turn)
    return in_turn + ([failed[generation % len(failed)]] if failed else [])


@asynccontextmanager
async def day_counter(settings: Settings, reached: Failpoint = pass_on) -> AsyncIterator[DayCounter]:
    """Connect, and yield a counter without a lease."""
    async with connect(settings) as database:
        yield DayCounter(settings, database, reached=reached)


async def count_all(counter: DayCounter) -> dict[str, list[CountedDay]]:
    """Count until no day is pending but those that fail; returns the days by namespace, in order.

    Raises Unavailable, RangeTooLarge.
    """
    counted: dict[str, list[CountedDay]] = {}
    known = await counter.namespaces()
    seen = await counter.look_at_log(known)
    for namespace, before in known.items():
        found = await counter.run_round(namespace, seen, before)
        days = [*found.counted]
        while found.is_to_continue:
            found = await counter.run_round(namespace, seen, found.progress)
            days += found.counted
        counted[namespace] = days
    return counted


async def count_once(settings: Settings, reached: Failpoint = pass_on) -> dict[str, list[CountedDay]]:
    """Connect and count: see `count_all`."""
    async with day_counter(settings, reached) as counter:
        return await count_all(counter)


async def recount_days(
    settings: Settings,
    database: ClickHouse,
    namespace: str,
    first_day: int,
    counted: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[int, int]:
    """Count the days of a namespace from `first_day` on, and all touched ones; returns the numbers of days and rows.

    `counted` is called after each round with the number of days so far and of all. A failed day stays pending. Raises
    Unavailable, RangeTooLarge.
    """
    counter = DayCounter(settings, database)
    before = (await counter.namespaces()).get(namespace)
    if before is None:
        return 0, 0
    known = await known_days(settings, database, namespace)
    wanted = {name: frozenset(day for day in days if day >= first_day) for name, days in known.items()}
    seen = await counter.look_at_log({namespace: before})
    found = await counter.run_round(namespace, seen, before, wanted)
    days, rows = len(found.counted), found.rows
    counted(days, days + found.progress.days_pending)
    while found.is_to_continue:
        found = await counter.run_round(namespace, seen, found.progress)
        days, rows = days + len(found.counted), rows + found.rows
        counted(days, days + found.progress.days_pending)
    return days, rows
