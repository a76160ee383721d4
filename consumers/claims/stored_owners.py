"""Stored owners: lookups in ClickHouse for the few events whose owner may be older than any claim."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from consumers.claims.owners import KnownOwner, Owner
from consumers.events import Event
from runtime.clickhouse import ClickHouse
from runtime.expansions import INHERITED_OFFSET_SHIFT, Expansions
from runtime.portions import portions
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.dedup import dedup_key, is_duplicate_of
from schemas.identity import id_bytes, id_from_bytes
from schemas.tables import INTERACTIONS

EVENTS_PER_LOOKUP = 2_000
TEXT_BYTES_PER_LOOKUP = 100 * 1024
"""Maximum bytes of namespaces, or of parts of keys, in one lookup: a bound parameter may have 128 KiB (ClickHouse's
http_max_field_value_size)."""
_MAX_ESCAPED_BYTES = 4
"""Maximum bytes that one byte of a text takes in a parameter."""

# Inherited events are on other partitions, below an offset, and come before all of the partition's own.
_INHERITED = (
    "arrayExists((parent, end) -> _partition = parent AND _offset < end, "
    "{ancestors:Array(UInt32)}, {ends:Array(UInt64)})"
)
_SHIFT = f"if(_partition = {{partition:UInt32}}, 0, {INHERITED_OFFSET_SHIFT})"

# Rows of another topic are older, whatever their offsets: an earlier pipeline stored them.
_THESE = "(namespace, interaction_id) IN arrayZip({namespaces:Array(String)}, {ids:Array(String)})"
_SAME_ID = (
    f"SELECT namespace, interaction_id, _topic, min(toInt64(_offset) + {_SHIFT}) FROM {INTERACTIONS} WHERE {_THESE} "
    f"AND (_topic != {{topic:String}} OR _partition = {{partition:UInt32}} OR {_INHERITED}) "
    "GROUP BY namespace, interaction_id, _topic"
)
_NEAR = (
    "SELECT namespace, execution_id, feature_id, interaction_type, _idempotency_key, "
    f"toInt64(_offset) + {_SHIFT} AS at, _event_time_ms, interaction_id "
    f"FROM {INTERACTIONS} WHERE namespace IN {{namespaces:Array(String)}} AND _topic = {{topic:String}} "
    f"AND (_partition = {{partition:UInt32}} OR {_INHERITED}) "
    "AND _event_time_ms > {after_ms:Int64} AND _event_time_ms < {before_ms:Int64} "
    "AND _keyed AND (execution_id IN {executions:Array(String)} OR _idempotency_key IN {keys:Array(String)}) "
    "ORDER BY at"
)


class StoredOwners:
    """Looks up stored owners of events."""

    def __init__(self, settings: Settings, database: ClickHouse, expansions: Expansions) -> None:
        self._topic = settings.topic
        self._window_ms = settings.dedup_window_ms
        self._database = database
        self._expansions = expansions

    async def of_same_id(self, events: Iterable[Event]) -> set[int]:
        """Return the offsets of events whose id came from outside and is stored from a lower offset, however old."""
        repeated = set()
        for group in lookup_groups(event for event in events if event.may_repeat_id):
            offsets = {(event.namespace, event.interaction_id): event.offset for event in group}
            for namespace, interaction_id, topic, offset in await self._rows("looking up ids", _SAME_ID, group):
                at = offsets[namespace, interaction_id]
                if topic != self._topic or offset < at:
                    repeated.add(at)
        return repeated

    async def of_replayed(self, events: Iterable[Event]) -> dict[int, Owner]:
        """Return for events replayed from dead letters, by offset, the first stored event that each repeats."""
        owners: dict[int, Owner] = {}
        for group in lookup_groups(event for event in events if event.replayed):
            more = {
                "namespaces": sorted({event.namespace for event in group}),
                "after_ms": min(event.event_ms for event in group) - self._window_ms,
                "before_ms": max(event.event_ms for event in group) + self._window_ms,
                "executions": [event.execution_id for event in group if event.execution_id],
                "keys": [event.idempotency_key for event in group if event.idempotency_key],
            }
            stored: dict[bytes | None, list[KnownOwner]] = defaultdict(list)
            for *parts, offset, event_ms, interaction_id in await self._rows("looking up owners", _NEAR, group, **more):
                stored[dedup_key(*parts)].append(KnownOwner(offset, event_ms, 0, id_bytes(interaction_id), None))
            for event in group:
                for each in stored.get(event.key, ()):
                    if is_duplicate_of(event, each, self._window_ms, replayed=True):
                        owners[event.offset] = Owner(each.offset, id_from_bytes(each.raw_id))
                        break
        return owners

    async def _rows(self, what: str, sql: str, group: Sequence[Event], **more: Any) -> Sequence[Sequence[Any]]:
        """Query rows of the partition of these events, and those that it inherited."""
        partition = group[0].partition
        ancestors = self._expansions.ancestors(partition)
        where = {
            "topic": self._topic,
            "partition": partition,
            "ancestors": [each.partition for each in ancestors],
            "ends": [each.end for each in ancestors],
            "namespaces": [event.namespace for event in group],
            "ids": [event.interaction_id for event in group],
        }
        return await retrying(what, partial(self._database.rows, sql, where | more))


def lookup_groups(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Group events by partition, sorted by namespace, as many as one query takes.

    With one query per namespace, a batch with thousands of namespaces would delay all others.
    """
    by_partition: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        by_partition[event.partition].append(event)
    for together in by_partition.values():
        in_order = sorted(together, key=lambda event: event.namespace)
        yield from portions(in_order, _parameter_bytes, max_items=EVENTS_PER_LOOKUP, max_size=TEXT_BYTES_PER_LOOKUP)


def _parameter_bytes(event: Event) -> int:
    """Return the maximum bytes that an event adds to one of a lookup's parameters."""
    texts = event.namespace, event.execution_id or "", event.idempotency_key or ""
    return _MAX_ESCAPED_BYTES * max(len(text.encode()) + 1 for text in texts)
