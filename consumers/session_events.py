"""Events of sessions: those of a batch that session signals count.

They are live events (no `occurred_at`) with a session_id and a feature_uri, of a retriever with a learning
configuration. Tests of columns come first, so that the events of other retrievers cost little.
"""

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from consumers.claims.owners import append_ms_of, raw_ids_of
from consumers.events import Events
from kernels.boundary import NUMBER_AT, SPAN_AT
from runtime.learning_configs import RetrieverKey
from runtime.session_signals import LiveSession, SessionEvents, SessionPlace, field_of

EVENT_BYTES, SESSION_BYTES = 64, 300
"""Memory of an event, and of a session or a field, in a batch that waits for its flush."""

Lines = npt.NDArray[np.int64]


class Configured:
    """Configured retrievers at one moment."""

    def __init__(self, first_versions: Mapping[RetrieverKey, int]) -> None:
        """`first_versions`: of the configuration in force, by namespace and retriever."""
        self.first_versions = first_versions
        hashed = hashlib.blake2b(repr(sorted(first_versions.items())).encode(), digest_size=8)
        self.fingerprint = hashed.hexdigest()
        """Equal for equal sets of retrievers and first versions."""
        by_size: dict[int, set[bytes]] = defaultdict(set)
        for raw in (retriever.encode() for _, retriever in first_versions):
            by_size[len(raw)].add(raw)
        self._by_size = {size: np.array(sorted(raws), f"V{size}") for size, raws in by_size.items() if size}

    def __bool__(self) -> bool:
        return bool(self.first_versions)

    def lines_of(self, events: Events) -> Lines:
        """Return the lines of live events with a session, a feature_uri and perhaps a configured retriever.

        Their namespaces are to be compared, and ids with escapes are to be decoded.
        """
        starts, sizes, decoded = events.columns.spans[:, SPAN_AT["retriever_id"]].T
        is_wanted = (decoded > 0) & (sizes != decoded)
        for size, wanted in self._by_size.items():
            lines = np.flatnonzero((decoded == size) & (sizes == size))
            if len(lines):
                raws = events.text[starts[lines, None] + np.arange(size)].view(f"V{size}")[:, 0]
                is_wanted[lines] = np.isin(raws, wanted)
        if not is_wanted.any():
            return np.empty(0, np.int64)
        lines = np.flatnonzero(is_wanted)
        spans = events.columns.spans[lines]
        is_complete = (spans[:, SPAN_AT["session_id"], 2] > 0) & (spans[:, SPAN_AT["feature_uri"], 2] > 0)
        is_live = events.columns.numbers[lines, NUMBER_AT["occurred_at"]] < 0
        found: Lines = lines[is_complete & is_live]
        return found


@dataclass
class BatchSignals:
    """Events of sessions in one batch, in columns."""

    configured: Configured
    """Retrievers by which they were selected."""
    places: list[SessionPlace] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    """By event, as the next ones."""
    sessions: "array[int]" = field(default_factory=partial(array, "i"))
    """Indices in `places`."""
    counted: "array[int]" = field(default_factory=partial(array, "i"))
    """Indices in `fields`."""
    log_places: "array[int]" = field(default_factory=partial(array, "q"))
    """Partition, offset and append time of each."""
    raw_ids: bytearray = field(default_factory=bytearray)
    """16 bytes of each."""

    @property
    def nbytes(self) -> int:
        """Memory held, about."""
        return EVENT_BYTES * len(self.sessions) + SESSION_BYTES * (len(self.places) + len(self.fields))

    def add(self, events: Events) -> None:
        """Add the events among these that count."""
        lines = self.configured.lines_of(events)
        if not len(lines):
            return
        reader, types = _TextReader(events), _type_sets(events, lines)
        places, fields = {}, {}
        rows = events.rows[lines]
        ids, namespaces = raw_ids_of(rows).tobytes(), [each.namespace for each in events.headers]
        columns = (
            lines.tolist(),
            types,
            events.headers_of[lines].tolist(),
            zip(
                events.partitions[lines].tolist(),
                events.offsets[lines].tolist(),
                append_ms_of(rows).tolist(),
                strict=True,
            ),
        )
        for at, (line, type_set, headers, log_place) in enumerate(zip(*columns, strict=True)):
            namespace, retriever = namespaces[headers], reader.text("retriever_id", line)
            first_version = self.configured.first_versions.get((namespace, retriever))
            if first_version is None:
                continue
            session = LiveSession(namespace, retriever, first_version, reader.text("session_id", line))
            counted = reader.text("feature_uri", line), type_set
            if session not in places:
                places[session] = len(self.places)
                self.places.append(session.place)
            if counted not in fields:
                fields[counted] = len(self.fields)
                self.fields.append(field_of(*counted))
            self.namespaces.append(namespace)
            self.sessions.append(places[session])
            self.counted.append(fields[counted])
            self.log_places.extend(log_place)
            self.raw_ids += ids[16 * at : 16 * at + 16]


class _TextReader:
    """Reader of texts of events, faster than `Events.text_of` for many."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._spans = events.columns.spans
        self._text = memoryview(events.text.data)
        self._at = {name: SPAN_AT[name] for name in ("retriever_id", "session_id", "feature_uri")}

    def text(self, name: str, line: int) -> str:
        """Return a text that the event has."""
        start, size, decoded = self._spans[line, self._at[name]].tolist()
        if size == decoded:
            return str(self._text[start : start + size], "utf-8")
        return self._events.text_of(name, line) or ""


def _type_sets(events: Events, lines: Lines) -> list[int]:
    """Return the type set of each line (`schemas/type_sets.py`)."""
    ends = events.columns.type_ends
    bits = np.left_shift(1, events.columns.types[: ends[-1]].astype(np.int64))
    found: list[int] = np.bitwise_or.reduceat(bits, ends[:-1])[lines].tolist() if len(bits) else []
    return found


def joined_by_session(
    batches: Sequence[BatchSignals], deleted: Collection[tuple[bytes, str]]
) -> tuple[list[SessionEvents], set[SessionPlace]]:
    """Return the events of all batches by session, and the sessions of deleted events."""
    by_place: dict[SessionPlace, tuple[dict[str, int], list[tuple[int, int, int, int]]]] = {}
    emptied: set[SessionPlace] = set()
    for batch in batches:
        log_places = zip(*[iter(batch.log_places)] * 3, strict=True)
        columns = zip(batch.sessions, batch.counted, log_places, strict=True)
        for at, (session, counted, log_place) in enumerate(columns):
            place = batch.places[session]
            if deleted and (bytes(batch.raw_ids[16 * at : 16 * at + 16]), batch.namespaces[at]) in deleted:
                emptied.add(place)
                continue
            fields, events = by_place.setdefault(place, ({}, []))
            events.append((fields.setdefault(batch.fields[counted], len(fields) + 1), *log_place))
    sessions = []
    for place, (fields, events) in by_place.items():
        events.sort(key=lambda event: event[1:3])  # `done` events come after stored ones of higher offsets
        sessions.append(SessionEvents(place, list(fields), [number for event in events for number in event]))
    return sessions, emptied
