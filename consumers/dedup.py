"""Deduplication: asks for every event's key, and for ids that came from outside also for the id."""

from collections import defaultdict
from functools import partial

from consumers.batch import Duplicate, Event, Verdicts
from runtime.claims import Claim, Claims
from runtime.clickhouse import ClickHouse
from runtime.retry import retrying
from runtime.settings import Settings
from schemas.dedup import dedup_key
from schemas.tables import INTERACTIONS

IDS_PER_LOOKUP = 2_000
"""A bound parameter may have 128 KiB (ClickHouse's http_max_field_value_size); these take 78 KB."""

_STORED_IDS = (
    f"SELECT interaction_id, _topic, _partition, _offset FROM {INTERACTIONS} "
    "WHERE namespace = {namespace:String} AND interaction_id IN {ids:Array(String)}"
)


class Deduplication:
    """Decides what is stored and what is a duplicate, partition by partition in offset order."""

    def __init__(self, settings: Settings, claims: Claims, database: ClickHouse) -> None:
        self._topic = settings.topic
        self._window_ms = settings.dedup_window_ms
        self._claims = claims
        self._database = database

    async def decide(self, events: list[Event]) -> Verdicts:
        """Claim every event's key. Deciding again, after whatever crash, gives the same verdicts."""
        verdicts = Verdicts()
        repeated = await self._repeated_ids([event for event in events if event.may_repeat_id])
        claimed = await self._claim([event for event in events if id(event) not in repeated])
        for event in events:
            duplicate_of = event.interaction_id if id(event) in repeated else claimed.get(id(event))
            if duplicate_of is None:
                verdicts.stored.append(event)
            else:
                verdicts.duplicates.append(Duplicate(event, duplicate_of))
        return verdicts

    async def _claim(self, events: list[Event]) -> dict[int, str | None]:
        """The owner's id for each duplicate, by the event's identity in this process. Without a key: no entry."""
        by_partition: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event.wire.execution_id:
                by_partition[event.partition].append(event)
        owners: dict[int, str | None] = {}
        for partition, asking in by_partition.items():
            claims = [_claim_of(event) for event in asking]
            # Whatever was appended before this cannot match this batch or a later one, also after a redelivery.
            reach_ms = asking[0].append_ms - 2 * self._window_ms
            answers = await retrying("claiming", partial(self._claims.claim, partition, claims, reach_ms))
            owners.update(zip(map(id, asking), answers, strict=True))
        return owners

    async def _repeated_ids(self, events: list[Event]) -> set[int]:
        """Which of these events have an id that an earlier record of the batch has, or a row however old."""
        first: dict[tuple[str, str], Event] = {}
        repeated = {id(event) for event in events if first.setdefault(_identity(event), event) is not event}
        by_namespace: dict[str, list[Event]] = defaultdict(list)
        for event in first.values():
            by_namespace[event.namespace].append(event)
        for namespace, group in by_namespace.items():
            for start in range(0, len(group), IDS_PER_LOOKUP):
                asking = {event.interaction_id: event for event in group[start : start + IDS_PER_LOOKUP]}
                parameters = {"namespace": namespace, "ids": list(asking)}
                rows = await retrying("looking up ids", partial(self._database.rows, _STORED_IDS, parameters))
                for interaction_id, *origin in rows:
                    event = asking[interaction_id]
                    if origin != [self._topic, event.partition, event.offset]:
                        repeated.add(id(event))
        return repeated


def _identity(event: Event) -> tuple[str, str]:
    return event.namespace, event.interaction_id


def _claim_of(event: Event) -> Claim:
    wire = event.wire
    key = dedup_key(event.namespace, wire.execution_id or "", wire.feature_id, wire.interaction_type)
    return Claim(key, event.offset, event.event_ms, event.append_ms, event.interaction_id)
