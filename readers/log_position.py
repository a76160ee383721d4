"""Position of a consumer group in a topic: its committed offsets at one moment."""

from collections.abc import Mapping
from typing import NamedTuple


class LogPosition(NamedTuple):
    """Committed offsets of a topic at one moment. Times are in ms since 1970."""

    topic: str
    at_ms: int
    """Time of the observation."""
    settled_ms: int
    """Time before which no record at or past these offsets was appended; 0 while unknown."""
    offsets: tuple[int, ...]
    """Offset of each partition, below which every record has an outcome."""

    @classmethod
    def of(cls, topic: str, at_ms: int, settled_ms: int, committed: Mapping[int, int]) -> "LogPosition":
        """Make the position of committed offsets by partition."""
        partitions = max(committed, default=-1) + 1
        return cls(topic, at_ms, settled_ms, tuple(committed.get(number, 0) for number in range(partitions)))

    def offset(self, partition: int) -> int:
        """Return the offset of a partition; 0 of one that is newer than this position."""
        return self.offsets[partition] if partition < len(self.offsets) else 0

    def after(self, other: "LogPosition") -> tuple[int, ...]:
        """Return the larger offset of both positions for each partition."""
        partitions = max(len(self.offsets), len(other.offsets))
        return tuple(max(self.offset(number), other.offset(number)) for number in range(partitions))
