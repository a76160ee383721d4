"""Stored owners: for the few events whose owner may be older than any claim, whether a row is one already."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from consumers.events import Event
from runtime.clickhouse import ClickHouse
from runtime.expansions import INHERITED, Expansions
from runtime.owners import Owner
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.dedup import Occurrence, dedup_key, is_duplicate_of
from schemas.tables import INTERACTIONS

# A bound parameter may have 128 KiB (ClickHouse's http_max_field_value_size).
IDS_PER_LOOKUP = 2_000  # 39 bytes each
KEYS_PER_LOOKUP = 60  # up to 512 bytes each, or four times that when every character has to be escaped

# What the partition inherits from others lies there, below an offset, and comes before all of its own.
_INHERITED = (
    "arrayExists((parent, end) -> _partition = parent AND _offset < end, "
    "{ancestors:Array(UInt32)}, {ends:Array(UInt64)})"
)
_SHIFT = f"if(_partition = {{partition:UInt32}}, 0, {INHERITED})"

# Rows of another topic are older whatever their offsets: they were stored by a pipeline that this one succeeds.
_SAME_ID = (
    f"SELECT interaction_id, _topic, min(toInt64(_offset) + {_SHIFT}) FROM {INTERACTIONS} "
    "WHERE namespace = {namespace:String} AND interaction_id IN {ids:Array(String)} "
    f"AND (_topic != {{topic:String}} OR _partition = {{partition:UInt32}} OR {_INHERITED}) "
    "GROUP BY interaction_id, _topic"
)
_MISPLACED = (
    f"SELECT interaction_id, _partition, _offset FROM {INTERACTIONS} "
    "WHERE namespace = {namespace:String} AND interaction_id IN {ids:Array(String)} AND _topic = {topic:String}"
)
_NEAR = (
    f"SELECT execution_id, feature_id, interaction_type, _idempotency_key, toInt64(_offset) + {_SHIFT} AS at, "
    "_event_time_ms, interaction_id "
    f"FROM {INTERACTIONS} WHERE namespace = {{namespace:String}} AND _topic = {{topic:String}} "
    f"AND (_partition = {{partition:UInt32}} OR {_INHERITED}) "
    "AND _event_time_ms > {after_ms:Int64} AND _event_time_ms < {before_ms:Int64} "
    "AND _keyed AND (execution_id IN {executions:Array(String)} OR _idempotency_key IN {keys:Array(String)}) "
    "ORDER BY at"
)

_Rows = dict[bytes | None, list[Occurrence]]


class StoredOwners:
    """Looks rows up for events of one partition."""

    def __init__(self, settings: Settings, database: ClickHouse, expansions: Expansions) -> None:
        self._topic = settings.topic
        self._window_ms = settings.dedup_window_ms
        self._database = database
        self._expansions = expansions

    async def of_same_id(self, events: Iterable[Event]) -> set[int]:
        """The offsets of those whose id came from outside and has been stored from a lower offset, however long ago."""
        repeated = set()
        for partition, namespace, group in _groups((event for event in events if event.may_repeat_id), IDS_PER_LOOKUP):
            offsets = {event.interaction_id: event.offset for event in group}
            where = {"namespace": namespace, "ids": list(offsets), **self._place(partition)}
            for interaction_id, topic, offset in await self._rows("looking up ids", _SAME_ID, where):
                if topic != self._topic or offset < offsets[interaction_id]:
                    repeated.add(offsets[interaction_id])
        return repeated

    async def stored_misplaced(self, events: Iterable[Event]) -> set[int]:
        """The offsets of copies whose originals are stored where they lie, by a version that did not move them."""
        repeated = set()
        moved = (event for event in events if event.moved_from is not None)
        for partition, namespace, group in _groups(moved, IDS_PER_LOOKUP):
            where = {"namespace": namespace, "ids": [event.interaction_id for event in group], **self._place(partition)}
            rows = await self._rows("looking up ids", _MISPLACED, where)
            stored = {(interaction_id, self._topic, *place) for interaction_id, *place in rows}
            repeated |= {event.offset for event in group if (event.interaction_id, *(event.moved_from or ())) in stored}
        return repeated

    async def of_replayed(self, events: Iterable[Event]) -> dict[int, Owner]:
        """For those replayed from dead letters, by offset: the first stored event that each is a duplicate of."""
        owners: dict[int, Owner] = {}
        for partition, namespace, group in _groups((event for event in events if event.replayed), KEYS_PER_LOOKUP):
            where = {
                "namespace": namespace,
                **self._place(partition),
                "after_ms": min(event.event_ms for event in group) - self._window_ms,
                "before_ms": max(event.event_ms for event in group) + self._window_ms,
                "executions": [event.execution_id for event in group if event.execution_id],
                "keys": [event.idempotency_key for event in group if event.idempotency_key],
            }
            rows: _Rows = defaultdict(list)
            for execution, feature, types, idempotency_key, offset, event_ms, interaction_id in await self._rows(
                "looking up owners", _NEAR, where
            ):
                key = dedup_key(namespace, execution, feature, types, idempotency_key)
                rows[key].append(Occurrence(offset, interaction_id, event_ms, 0))
            for event in group:
                if (owner := self._first_owner(event, rows)) is not None:
                    owners[event.offset] = owner
        return owners

    def _place(self, partition: int) -> dict[str, Any]:
        ancestors = self._expansions.ancestors(partition)
        return {
            "topic": self._topic,
            "partition": partition,
            "ancestors": [each.partition for each in ancestors],
            "ends": [each.end for each in ancestors],
        }

    def _first_owner(self, event: Event, rows: _Rows) -> Owner | None:
        asked = Occurrence(event.offset, event.interaction_id, event.event_ms, event.append_ms)
        for owner in rows.get(event.key, ()):
            if is_duplicate_of(asked, owner, self._window_ms, replayed=True):
                return Owner(owner.offset, owner.interaction_id)
        return None

    async def _rows(self, what: str, sql: str, where: dict[str, Any]) -> Sequence[Sequence[Any]]:
        return await retrying(what, partial(self._database.rows, sql, where))


def _groups(events: Iterable[Event], size: int) -> Iterable[tuple[int, str, list[Event]]]:
    """Events of one partition and namespace at a time, as many as one query takes."""
    together: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        together[event.partition, event.namespace].append(event)
    for (partition, namespace), group in together.items():
        for start in range(0, len(group), size):
            yield partition, namespace, group[start : start + size]
