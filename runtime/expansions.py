"""Expansions of a topic: since when it has more partitions, and on which of them a key lay before.

A topic grows to a multiple of its partitions only. Kafka's partitioner takes the key's hash modulo their number, so
what comes to partition p of the larger topic came to `p % before` of the smaller one, and to no other: p inherits from
that one what lies there below the offset at which it was expanded.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.clickhouse import ClickHouse
from schemas.tables import EXPANSIONS

INHERITED_OFFSET_SHIFT = -(2**62)
"""Added to the offset of an inherited event: it comes before each of the partition's own, in the order it had."""

_READ = (
    "SELECT partitions_before, partitions_after, ends, toUnixTimestamp64Milli(expanded_at) "
    f"FROM {EXPANSIONS} FINAL WHERE topic = {{topic:String}} AND notEmpty(ends) ORDER BY partitions_after"
)


class Expansion(NamedTuple):
    """One of them: the ends are those of the partitions that were there before; its time in ms since 1970."""

    before: int
    after: int
    ends: Sequence[int]
    at_ms: int


class Ancestor(NamedTuple):
    """Where a partition's keys lay before: all events there below an offset."""

    partition: int
    end: int


class Expansions:
    """The expansions of one topic, in their order."""

    def __init__(self, expansions: Sequence[Expansion] = ()) -> None:
        self.all = expansions

    @classmethod
    async def read(cls, topic: str, database: ClickHouse) -> "Expansions":
        """As they are now. Raises Unavailable."""
        return cls([Expansion(*row) for row in await database.rows(_READ, {"topic": topic})])

    @property
    def partitions(self) -> int:
        """How many there are since the last one; 0 when there was none."""
        return self.all[-1].after if self.all else 0

    def home_partitions(
        self,
        hashes: npt.NDArray[np.int64],
        partitions: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        count: int,
    ) -> npt.NDArray[np.uint32]:
        """The partition that each record belongs on by its key's hash, the topic having `count` of them now.

        A record from before an expansion may have been placed by the number of partitions at that time: then it
        belongs where it is.
        """
        homes = (hashes % count).astype(np.uint32)
        for each in reversed(self.all):  # of several that a record comes before, the earliest decides
            ends = np.array(each.ends, np.int64)[np.minimum(partitions, each.before - 1)]
            is_before = (partitions < each.before) & (offsets < ends)
            was_home = hashes % each.before == partitions
            homes[is_before] = np.where(was_home, partitions, hashes % count)[is_before]
        return homes

    def ancestors(self, partition: int) -> list[Ancestor]:
        """Other partitions on which keys of this one have lain, the earliest first."""
        found = []
        for expansion in self.all:
            parent = partition % expansion.before
            if parent != partition:
                found.append(Ancestor(parent, expansion.ends[parent]))
        return found
