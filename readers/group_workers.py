"""Workers of the consumer group: those that are members, and those that have left lately."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from runtime.kafka_groups import GroupMember

MAX_LEFT = 100
"""Maximum workers that have left and are listed; the last ones to leave."""
LEFT_FOR_MS = 3_600_000
"""Milliseconds for which a worker that has left is listed."""


class GroupWorker(NamedTuple):
    """Worker with its state since a time, in ms since 1970, at which that was first observed."""

    name: str
    host: str
    state: Literal["active", "left"]
    since_ms: int
    partitions: tuple[int, ...]
    """Partitions that it has, or none after it has left."""


class GroupWorkers:
    """Workers as observed by one process."""

    def __init__(self) -> None:
        self._active: dict[str, GroupWorker] = {}
        self._left: dict[str, GroupWorker] = {}
        self.is_known = False
        """Whether the last attempt to observe them succeeded."""

    def note(self, at_ms: int, members: Sequence[GroupMember]) -> None:
        """Record the members of the group at a time."""
        before, self._active = self._active, {}
        for name, host, partitions in members:
            since_ms = before[name].since_ms if name in before else at_ms
            self._active[name] = GroupWorker(name, host, "active", since_ms, partitions)
            self._left.pop(name, None)
        for name in before.keys() - self._active.keys():
            self._left[name] = before[name]._replace(state="left", since_ms=at_ms, partitions=())
        lately = sorted(self._left.values(), key=lambda worker: -worker.since_ms)[:MAX_LEFT]
        self._left = {worker.name: worker for worker in lately if at_ms - worker.since_ms < LEFT_FOR_MS}
        self.is_known = True

    def note_failure(self) -> None:
        """Record that the members could not be observed. The last known ones stay listed."""
        self.is_known = False

    @property
    def active(self) -> Sequence[GroupWorker]:
        """Members of the group, by name."""
        return list(self._active.values())

    @property
    def left(self) -> Sequence[GroupWorker]:
        """Workers that have left within the last hour, the last one first."""
        return list(self._left.values())
