"""The reject fuses: one for each namespace, which trips while at least half of what it sends is rejected.

One producer's garbage is no reason to stop the events of others. TALLY_REJECT_POLICY says what happens to the valid
events of a namespace whose fuse has tripped: `drain` stores them as ever, `hold` rejects them as `namespace_held` until
the fuse has closed, so that they can be put back once the producer is repaired. A fuse closes by itself.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Mapping
from functools import cache

import numpy as np

from consumers.batch import Batch, Rejected, ValidatedBatch
from consumers.events import Flags, flags_of_heads
from consumers.validation import namespace_in
from runtime import metrics
from runtime.settings import Settings
from schemas.rejection import Rejection

MOST_TRACKED = 1_000
"""Namespaces that one worker counts, at most; that which was not seen for longest is forgotten."""
MAX_EXAMPLE_CHARACTERS = 300
PARTS = 16
"""A window is counted in parts of a 16th or a batch, so its memory does not grow with its size."""

_HELD = Rejection(
    "namespace_held",
    "",
    "the event is valid; it is held because at least half of what its namespace sent last was rejected "
    "(TALLY_REJECT_POLICY=hold): `tally dlq replay --reason namespace_held` puts it back",
)

_HOLDING = (
    "valid events become dead letters, too, until less than half are rejected, and "
    "`tally dlq replay --reason namespace_held` puts them back"
)

log = logging.getLogger("tally.worker")


class _Window:
    """Counts over the last records of one namespace: as few batches as have at least `size` records."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._parts: deque[tuple[int, int]] = deque()
        self.records = self.rejected = 0
        self.is_tripped = False

    def add(self, records: int, rejected: int) -> None:
        """Count some more, and forget what lies before the window."""
        self.records += records
        self.rejected += rejected
        if self._parts and self._parts[-1][0] + records <= self._size // PARTS:
            before = self._parts.pop()
            records, rejected = records + before[0], rejected + before[1]
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
    """The fuses of one worker. The namespace '' is that of records which name none that can be read."""

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
        """Count an event, already counted as valid with its batch, that the table has refused."""
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
        if len(self._windows) > MOST_TRACKED:
            oldest, window = self._windows.popitem(last=False)
            if window.is_tripped:
                self._close(oldest, window, f"{MOST_TRACKED} other namespaces were seen since, so it is forgotten")

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
        """With TALLY_REJECT_POLICY=hold, move valid events of tripped namespaces from `events` to `withheld`.

        Events that have a row stay: they are stored, whatever their namespace sends now.
        """
        tripped = {name for name, window in self._windows.items() if window.is_tripped} if self._holds else ()
        if not tripped:
            return
        events = validated.events
        is_held = flags_of_heads(events.heads, events.head_of, lambda head: head.namespace in tripped) & ~validated.done
        if is_held.any():
            validated.withheld = _as_rejected(batch, validated, is_held)
            validated.events, validated.done = events[~is_held], validated.done[~is_held]
            validated.recorded += len(validated.withheld)


def _name(namespace: str) -> str:
    return f"namespace {namespace!r}" if namespace else "records that name no namespace"


def _as_rejected(batch: Batch, validated: ValidatedBatch, which: Flags) -> list[Rejected]:
    found = []
    for part in batch.slices:
        first, end = validated.events.lines_of(part.partition)
        held = validated.events[first:end][which[first:end]]
        lines = np.searchsorted(part.records.offsets, held.offsets).tolist()
        for event, line in zip(held, lines, strict=True):
            record = part.records.at(line)
            found.append(
                Rejected(
                    event.partition,
                    record,
                    event.namespace,
                    event.interaction_id,
                    _HELD,
                    event.user_id,
                    event.execution_id,
                )
            )
    return found


def _valid_by_namespace(validated: ValidatedBatch) -> Mapping[str, int]:
    events, counts = validated.events, dict[str, int]()
    by_head = np.bincount(events.head_of, minlength=len(events.heads))
    for head in np.flatnonzero(by_head).tolist():
        namespace = events.heads[head].namespace
        counts[namespace] = counts.get(namespace, 0) + int(by_head[head])
    return counts


def _rejected_by_namespace(validated: ValidatedBatch) -> tuple[Mapping[str, int], Mapping[str, Rejection]]:
    """How many, and the first of each. What belongs to nobody by its value may still name its namespace in a header."""
    named, counts, examples = cache(namespace_in), dict[str, int](), dict[str, Rejection]()
    for each in validated.rejected:
        namespace = each.namespace or named(tuple(each.record.headers))
        counts[namespace] = counts.get(namespace, 0) + 1
        examples.setdefault(namespace, each.rejection)
    return counts, examples
