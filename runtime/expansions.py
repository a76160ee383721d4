"""Expansions of a topic: when its partition count grew, and on which partition a key was before.

A topic grows only to a multiple of its partition count. Kafka's partitioner takes the key's hash modulo that count. So
keys of partition p of the larger topic were on partition `p % before` of the smaller one, and on no other. Partition p
inherits the events there below the offset of the expansion.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.clickhouse import ClickHouse
from schemas.tables import EXPANSIONS

INHERITED_OFFSET_SHIFT = -(2**62)
"""Added to the offset of an inherited event, which so precedes the partition's own events and keeps its order."""

_READ = (
    "SELECT partitions_before, partitions_after, ends, toUnixTimestamp64Milli(expanded_at) "
    f"FROM {EXPANSIONS} FINAL WHERE topic = {{topic:String}} AND notEmpty(ends) ORDER BY partitions_after"
)


class Expansion(NamedTuple):
    """Expansion of a topic. `ends` are the end offsets of the earlier partitions; `at_ms` is in ms since 1970."""

    before: int
    after: int
    ends: Sequence[int]
    at_ms: int


class Ancestor(NamedTuple):
    """Earlier partition of a partition's keys: all events there below `end`."""

    partition: int
    end: int


class Expansions:
    """Expansions of one topic, oldest first."""

    def __init__(self, expansions: Sequence[Expansion] = ()) -> None:
        self.all = expansions

    @classmethod
    async def read(cls, topic: str, database: ClickHouse) -> "Expansions":
        """Read the current expansions. Raises Unavailable."""
        return cls([Expansion(*row) for row in await database.rows(_READ, {"topic": topic})])

    @property
    def partitions(self) -> int:
        """Partition count after the last expansion; 0 without one."""
        return self.all[-1].after if self.all else 0

    def home_partitions(
        self,
        hashes: npt.NDArray[np.int64],
        partitions: npt.NDArray[np.uint32],
        offsets: npt.NDArray[np.int64],
        count: int,
    ) -> npt.NDArray[np.uint32]:
        """Return the home partition of each record by its key's hash, for a topic of `count` partitions.

        A record from before an expansion may have been placed by the partition count of that time. Then its home is
        the partition it is on.
        """
        homes = (hashes % count).astype(np.uint32)
        for each in reversed(self.all):  # the earliest expansion after a record decides
            ends = np.array(each.ends, np.int64)[np.minimum(partitions, each.before - 1)]
            is_before = (partitions < each.before) & (offsets < ends)
            was_home = hashes % each.before == partitions
            homes[is_before] = np.where(was_home, partitions, hashes % count)[is_before]
        return homes

    def ancestors(self, partition: int) -> list[Ancestor]:
        """Return the other partitions that keys of this one were on, the earliest first."""
        found = []
        for expansion in self.all:
            parent = partition % expansion.before
            if parent != partition:
                found.append(Ancestor(parent, expansion.ends[parent]))
        return found
