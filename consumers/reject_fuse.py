"""Reject fuses: one for each namespace, which trips while at least half of its last records are rejected.

One producer's invalid records must not stop the events of others. TALLY_REJECT_POLICY applies to the valid events
of a namespace whose fuse has tripped. `drain` stores them as before. `hold` rejects them as `namespace_held`, so that
they can be replayed once the producer is repaired. A fuse closes once less than half of a window is rejected.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from functools import cache

import numpy as np

from consumers.batch import Batch, RejectedRecord, ValidatedBatch
from consumers.events import Event, flags_by_headers
from consumers.record_headers import namespace_in
from consumers.records import PlainRecord
from runtime import metrics
from runtime.settings import Settings
from schemas.rejection import Rejection

MAX_NAMESPACES = 1_000
"""Maximum namespaces that one worker counts; the one unseen for longest is forgotten."""
MAX_EXAMPLE_CHARACTERS = 300
PARTS = 16
"""Parts of a window: it is counted in 16ths or batches, so its memory does not grow with its size."""

_HELD = Rejection(
    "namespace_held",
    "",
    "the event is valid; it is held because at least half of its namespace's last records were rejected "
    "(TALLY_REJECT_POLICY=hold): `tally dlq replay --reason namespace_held` replays it",
)

_HOLDING = (
    "valid events become dead letters, too, until less than half are rejected, and "
    "`tally dlq replay --reason namespace_held` replays them"
)

log = logging.getLogger("tally.worker")


class _Window:
    """Counts of one namespace's last records: of as few parts as have at least `size` records."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: deque[tuple[int, int]] = deque()
        self.records = self.rejected = 0
        self.is_tripped = False

    def add(self, records: int, rejected: int) -> None:
        """Count records, and forget the parts before the window."""
        self.records += records
        self.rejected += rejected
        if self._parts and self._parts[-1][0] + records <= self._size // PARTS:
            last_records, last_rejected = self._parts.pop()
            records, rejected = records + last_records, rejected + last_rejected
        self._parts.append((records, rejected))
        while self.records - self._parts[0][0] >= self._size:
            old_records, old_rejected = self._parts.popleft()
            self.records -= old_records
            self.rejected -= old_rejected

    @property
    def is_bad(self) -> bool:
        """Whether at least half of a whole window was rejected."""
        return self.records >= self._size and 2 * self.rejected >= self.records


class RejectFuses:
    """Reject fuses of one worker. The namespace '' is that of records without a readable namespace."""

    def __init__(self, settings: Settings) -> None:
        self._window = settings.reject_window
        self._policy = settings.reject_policy
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._labels = metrics.NamespaceLabels()

    def count(self, validated: ValidatedBatch) -> None:
        """Count a batch, and trip or close the fuses of its namespaces."""
        rejected, examples = _rejected_by_namespace(validated)
        valid = _valid_by_namespace(validated)
        for namespace in rejected.keys() | valid.keys():
            some = rejected.get(namespace, 0)
            self._count(namespace, valid.get(namespace, 0) + some, some, examples.get(namespace))

    def refused(self, namespace: str, rejection: Rejection) -> None:
        """Count an event that the table has refused, and that its batch counted as valid."""
        self._count(namespace, 0, 1, rejection)

    def _count(self, namespace: str, records: int, rejected: int, example: Rejection | None) -> None:
        window = self._windows.setdefault(namespace, _Window(self._window))
        self._windows.move_to_end(namespace)
        window.add(records, rejected)
        if rejected:
            metrics.REJECTED.labels(self._labels.of(namespace)).inc(rejected)
        if window.is_bad and not window.is_tripped:
            self._trip(namespace, window, example)
        elif window.is_tripped and not window.is_bad:
            self._close(namespace, window, f"its valid events are stored{' again' if self._holds else ' as before'}")
        if len(self._windows) > MAX_NAMESPACES:
            oldest, window = self._windows.popitem(last=False)
            if window.is_tripped:
                self._close(oldest, window, f"{MAX_NAMESPACES} other namespaces were seen since, and it is forgotten")

    @property
    def _holds(self) -> bool:
        return self._policy == "hold"

    def _trip(self, namespace: str, window: _Window, example: Rejection | None) -> None:
        window.is_tripped = True
        metrics.REJECT_FUSES.labels(metrics.label_of(namespace)).set(1)
        log.error(
            "reject fuse tripped for %s: %d of the last %d records were rejected%s. They become dead letters; %s "
            "(TALLY_REJECT_POLICY=%s)",
            _name(namespace),
            window.rejected,
            window.records,
            f", for example {' '.join(example)[:MAX_EXAMPLE_CHARACTERS]!r}" if example else "",
            _HOLDING if self._holds else "valid events are stored as before",
            self._policy,
        )

    def _close(self, namespace: str, window: _Window, then: str) -> None:
        window.is_tripped = False
        metrics.REJECT_FUSES.remove(metrics.label_of(namespace))
        log.warning(
            "reject fuse closed for %s: %d of the last %d records were rejected; %s",
            _name(namespace),
            window.rejected,
            window.records,
            then,
        )

    def withhold(self, batch: Batch, validated: ValidatedBatch) -> None:
        """Move valid events of tripped namespaces from `events` to `withheld`, if TALLY_REJECT_POLICY=hold.

        Events that have a row stay: they are stored, whatever their namespace sends now.
        """
        tripped = {name for name, window in self._windows.items() if window.is_tripped} if self._holds else ()
        if not tripped:
            return
        events = validated.events
        in_tripped = flags_by_headers(events.headers, events.headers_of, lambda each: each.namespace in tripped)
        is_held = in_tripped & ~validated.done
        if is_held.any():
            held = events[is_held]
            records = batch.records_of(held)
            validated.withheld = [_as_rejected(*each) for each in zip(held, records, strict=True)]
            validated.events, validated.done = events[~is_held], validated.done[~is_held]
            validated.recorded += len(validated.withheld)


def _name(namespace: str) -> str:
    return f"namespace {namespace!r}" if namespace else "records that name no namespace"


def _as_rejected(event: Event, record: PlainRecord) -> RejectedRecord:
    ids = event.interaction_id, _HELD, event.user_id, event.execution_id
    return RejectedRecord(event.partition, record, event.namespace, *ids)


def _valid_by_namespace(validated: ValidatedBatch) -> Mapping[str, int]:
    events, counts = validated.events, dict[str, int]()
    by_headers = np.bincount(events.headers_of, minlength=len(events.headers))
    for index in np.flatnonzero(by_headers).tolist():
        namespace = events.headers[index].namespace
        counts[namespace] = counts.get(namespace, 0) + int(by_headers[index])
    return counts


def _rejected_by_namespace(validated: ValidatedBatch) -> tuple[Mapping[str, int], Mapping[str, Rejection]]:
    """Return the number of rejections and the first one by namespace; a header names it when the value cannot."""
    named, counts, examples = cache(namespace_in), dict[str, int](), dict[str, Rejection]()
    for each in validated.rejected:
        namespace = each.namespace or named(tuple(each.record.headers))
        counts[namespace] = counts.get(namespace, 0) + 1
        examples.setdefault(namespace, each.rejection)
    return counts, examples
