"""Progress of the counts of one namespace: what the counts in force contain, and which days are still to be counted.

Generations are numbers of ClickHouse's clock. A count takes its generation after it has looked for touched days, and
before it reads what it counts. So of two counts of a day, by whichever processes, the one with the larger generation
contains everything that the progress of the smaller generations names.
"""

import json
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from runtime.clickhouse import ClickHouse
from schemas.event_time import from_epoch_ms
from schemas.learning_config import LearningConfig
from schemas.tables import LEARNING_DAYS, LEARNING_PROGRESS

RANDOM_BITS = 12
"""Low bits of a generation, so that processes which take one in the same microsecond have different ones."""

_NEW_GENERATION = f"""
SELECT greatest(
    toUInt64(toUnixTimestamp64Micro(now64(6))),
    (SELECT bitShiftRight(max(generation), {RANDOM_BITS}) FROM {LEARNING_PROGRESS}) + 1,
    (SELECT bitShiftRight(max(generation), {RANDOM_BITS}) FROM {LEARNING_DAYS}) + 1
)
"""
_IN_FORCE = f"""
SELECT namespace, max(generation), argMax(state, generation) FROM {LEARNING_PROGRESS}
WHERE {{namespaces:Array(String)}} = [] OR namespace IN {{namespaces:Array(String)}} GROUP BY namespace
"""

RetrieverDays = Mapping[str, frozenset[int]]
"""Days since 1970-01-01 (UTC, by event time) by retriever."""
Ends = Mapping[str, tuple[int, ...]]
"""Offset after the highest stored one, by topic and partition."""


_NOTHING: Mapping[str, Any] = MappingProxyType({})


class CountShape(NamedTuple):
    """Part of a learning configuration that changes which rows a count has."""

    is_personal: bool
    segment_paths: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, config: LearningConfig) -> "CountShape":
        """Return the shape of a configuration's counts."""
        return cls(config.is_personal, config.segment_paths)


class CountProgress(NamedTuple):
    """Progress of a namespace. Counts of days that are not pending contain all that it names."""

    generation: int = 0
    shapes: Mapping[str, CountShape] = _NOTHING
    """By retriever."""
    ends: Ends = _NOTHING
    overlap: int = 0
    """Offsets below each end in which rows may still appear: those of the tail."""
    tail: Mapping[str, Mapping[int, int]] = _NOTHING
    """Events in the tail by retriever and day."""
    tombstones: Mapping[int, int] = MappingProxyType({})
    """By day, without those of expired months."""
    expired: Mapping[str, int] = _NOTHING
    """Last expired month (YYYYMM) by topic."""
    pending: RetrieverDays = _NOTHING
    failed: RetrieverDays = _NOTHING
    """Pending days whose count exceeded its memory or time. They are tried after all others."""
    as_of_ms: int = 0
    """Time since 1970 in ms: the counts contain every event stored, and every deletion applied, before it."""

    @property
    def days_pending(self) -> int:
        """Number of days to count, each counted once for each retriever."""
        return sum(map(len, self.pending.values()))

    def as_json(self) -> str:
        """Return everything but the generation as JSON."""
        return json.dumps({
            "shapes": self.shapes, "ends": self.ends, "overlap": self.overlap, "tail": self.tail,
            "tombstones": self.tombstones, "expired": self.expired, "pending": _sorted(self.pending),
            "failed": _sorted(self.failed), "as_of_ms": self.as_of_ms,
        })  # fmt: skip

    @classmethod
    def from_json(cls, generation: int, text: str) -> "CountProgress":
        """Return the progress that `as_json` wrote."""
        state = json.loads(text)
        return cls(
            generation,
            {
                name: CountShape(personal, tuple(map(tuple, paths)))
                for name, (personal, paths) in state["shapes"].items()
            },
            {topic: tuple(ends) for topic, ends in state["ends"].items()},
            state["overlap"],
            {name: _by_day(rows) for name, rows in state["tail"].items()},
            _by_day(state["tombstones"]),
            state["expired"],
            {name: frozenset(days) for name, days in state["pending"].items()},
            {name: frozenset(days) for name, days in state["failed"].items()},
            state["as_of_ms"],
        )


def _sorted(days: RetrieverDays) -> dict[str, list[int]]:
    return {name: sorted(some) for name, some in days.items() if some}


def _by_day(numbers: Mapping[str, int]) -> dict[int, int]:
    return {int(day): number for day, number in numbers.items()}


def joined(*parts: RetrieverDays) -> dict[str, frozenset[int]]:
    """Return the union of days."""
    names = {name for part in parts for name in part}
    return {name: frozenset().union(*(part.get(name, frozenset()) for part in parts)) for name in sorted(names)}


async def new_generation(database: ClickHouse) -> int:
    """Return a generation that is larger than every published one, and that no other process gets. Raises Unavailable.

    Microseconds of ClickHouse's clock since 1970, then RANDOM_BITS.
    """
    ((micros,),) = await database.rows(_NEW_GENERATION)
    return (int(micros) << RANDOM_BITS) + secrets.randbits(RANDOM_BITS)


async def read_progress(database: ClickHouse, *namespaces: str) -> dict[str, CountProgress]:
    """Return the progress by namespace; without arguments that of all. Raises Unavailable."""
    found = await database.rows(_IN_FORCE, {"namespaces": list(namespaces)})
    return {name: CountProgress.from_json(int(generation), text) for name, generation, text in found}


async def save_progress(database: ClickHouse, namespace: str, progress: CountProgress) -> None:
    """Store progress, which is in force unless that of a larger generation is stored. Raises Unavailable."""
    row: dict[str, Any] = {
        "namespace": namespace,
        "generation": progress.generation,
        "state": progress.as_json(),
        "counted_at": f"{from_epoch_ms(progress.generation // (1000 << RANDOM_BITS)):%Y-%m-%d %H:%M:%S.%f}"[:-3],
    }
    await database.insert_row(LEARNING_PROGRESS, row, f"{namespace} {progress.generation}")
