"""Telemetry of batches: metrics and traces of their validation and their commit, and the time of each stage."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from consumers.batch import Batch
from consumers.claims.owners import append_ms_of
from consumers.events import Events, flags_by_headers
from consumers.group import BatchGroup
from runtime import metrics
from runtime.traces import Traces
from schemas.interaction import INTERACTION_TYPES

MAX_TRACED = 1_000
"""Maximum traced events between validation and commit; further ones get no span."""


class _TracedEvent(NamedTuple):
    traceparent: bytes
    validated_at: float
    partition: int
    offset: int
    interaction_id: str


class Telemetry:
    """Metrics and traces of one worker's batches."""

    def __init__(self, traces: Traces) -> None:
        self._labels = metrics.NamespaceLabels()
        self._traces = traces
        self._traced: list[_TracedEvent] = []

    def validated(self, batch: Batch, events: Events) -> None:
        """Count a validated batch and its valid events."""
        metrics.BATCH_RECORDS.observe(len(batch))
        if len(batch):
            metrics.BATCH_AGE.observe(_seconds_since(int(batch.records.append_ms.min())))
        if len(events):
            self._note_last(events)
            if self._traces.is_enabled:
                self._note_traced(events)

    def _note_last(self, events: Events) -> None:
        """Set the gauge of the last event by namespace and type."""
        ends, kinds = events.columns.type_ends, len(INTERACTION_TYPES)
        lines = np.repeat(np.arange(len(events)), np.diff(ends))
        places = events.headers_of[lines] * kinds + events.columns.types[: ends[-1]]
        last_ms = np.zeros(len(events.headers) * kinds, np.int64)
        np.maximum.at(last_ms, places, append_ms_of(events.rows)[lines])
        by_name: dict[tuple[str, str], int] = {}
        for place in np.flatnonzero(last_ms).tolist():
            index, kind = divmod(place, kinds)
            name = self._labels.of(events.headers[index].namespace), INTERACTION_TYPES[kind]
            by_name[name] = max(int(last_ms[place]), by_name.get(name, 0))
        for name, at_ms in by_name.items():
            metrics.LAST_EVENT.labels(*name).set(at_ms / 1000)

    def _note_traced(self, events: Events) -> None:
        is_traced = flags_by_headers(events.headers, events.headers_of, lambda each: each.traceparent is not None)
        now = time.time()
        for line in np.flatnonzero(is_traced)[: MAX_TRACED - len(self._traced)].tolist():
            event, traceparent = events.at(line), events.headers[events.headers_of[line]].traceparent
            if traceparent is not None:
                self._traced.append(_TracedEvent(traceparent, now, event.partition, event.offset, event.interaction_id))

    def _end_traces(self, next_offsets: Mapping[int, int]) -> None:
        left = []
        for each in self._traced:
            if each.offset >= next_offsets.get(each.partition, 0):
                left.append(each)
                continue
            attributes: dict[str, str | int] = {
                "messaging.system": "kafka",
                "messaging.destination.partition.id": str(each.partition),
                "messaging.kafka.offset": each.offset,
                "tally.interaction_id": each.interaction_id,
            }
            self._traces.record_consumed(each.traceparent, each.validated_at, attributes)
        self._traced = left

    def forget(self) -> None:
        """Forget traced events that are not committed: another worker gets them."""
        self._traced = []

    def committed(self, group: BatchGroup) -> None:
        """Count a committed group, and end the traces of its events."""
        if self._traced:
            self._end_traces(group.next_offsets)
        metrics.INSERT_ROWS.observe(len(group.rows))
        for decided in group.decided:
            if decided.ranges:
                metrics.FRESHNESS.observe(_seconds_since(min(each.first_append_ms for each in decided.ranges)))


class Stages:
    """Wall-clock seconds of a worker by stage; stages of neighbouring batches overlap."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begun
            self._seconds[name] += seconds
            metrics.STAGE_SECONDS.labels(name).inc(seconds)

    def as_text(self) -> str:
        """Format the seconds as one line."""
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self._seconds.items())


def _seconds_since(at_ms: int) -> float:
    return max(0.0, time.time() - at_ms / 1000)
