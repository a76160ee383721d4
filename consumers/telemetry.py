"""What a worker tells of batches: when they are judged, and when their outcomes are committed."""

import time

import numpy as np

from consumers.batch import Batch
from consumers.events import Events
from consumers.group import Group
from runtime import metrics
from runtime.owners import append_ms_of
from schemas.interaction import INTERACTION_TYPES


class Telemetry:
    """One worker's."""

    def __init__(self) -> None:
        self._namespaces: set[str] = set()

    def judged(self, batch: Batch, events: Events) -> None:
        """A batch, and what of it is valid."""
        metrics.BATCH_RECORDS.observe(len(batch))
        if len(batch):
            metrics.BATCH_AGE.observe(_seconds_since(int(batch.records.append_ms.min())))
        if len(events):
            self._note_last(events)

    def _note_last(self, events: Events) -> None:
        ends, kinds = events.columns.type_ends, len(INTERACTION_TYPES)
        lines = np.repeat(np.arange(len(events)), np.diff(ends))
        places = events.head_of[lines] * kinds + events.columns.types[: ends[-1]]
        last_ms = np.zeros(len(events.heads) * kinds, np.int64)
        np.maximum.at(last_ms, places, append_ms_of(events.rows)[lines])
        by_name: dict[tuple[str, str], int] = {}
        for place in np.flatnonzero(last_ms).tolist():
            head, kind = divmod(place, kinds)
            name = self._label_of(events.heads[head].namespace), INTERACTION_TYPES[kind]
            by_name[name] = max(int(last_ms[place]), by_name.get(name, 0))
        for name, at_ms in by_name.items():
            metrics.LAST_EVENT.labels(*name).set(at_ms / 1000)

    def _label_of(self, namespace: str) -> str:
        if namespace not in self._namespaces and len(self._namespaces) < metrics.MOST_NAMESPACES:
            self._namespaces.add(namespace)
        return namespace if namespace in self._namespaces else metrics.OTHERS

    def committed(self, group: Group) -> None:
        """A group: from now on what it stored can be found."""
        metrics.INSERT_ROWS.observe(len(group.rows))
        for decided in group.decided:
            if decided.ranges:
                metrics.FRESHNESS.observe(_seconds_since(min(each.first_append_ms for each in decided.ranges)))
        for rejected in group.rejected:
            metrics.LETTERS.labels(rejected.rejection.reason).inc()


def _seconds_since(at_ms: int) -> float:
    return max(0.0, time.time() - at_ms / 1000)
