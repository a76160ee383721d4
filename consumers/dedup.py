"""Deduplication: asks for every event's key, and for imported events also for their id."""

from collections import defaultdict
from functools import partial

from consumers.batch import Duplicate, Event, Verdicts
from runtime.claims import Claim, Claims
from runtime.clickhouse import ClickHouse
from runtime.retry import retrying
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

    def __init__(self, topic: str, claims: Claims, database: ClickHouse) -> None:
        self._topic = topic
        self._claims = claims
        self._database = database

    async def decide(self, events: list[Event]) -> Verdicts:
        """Claim every event's key. Deciding again, after whatever crash, gives the same verdicts."""
        verdicts = Verdicts()
        imported = await self._imported_before([event for event in events if event.derived_id])
        claimed = await self._claim([event for event in events if id(event) not in imported])
        for event in events:
            duplicate_of = event.interaction_id if id(event) in imported else claimed.get(id(event))
            if duplicate_of is None:
                verdicts.stored.append(event)
            else:
                verdicts.duplicates.append(Duplicate(event, duplicate_of))
        return verdicts

    async def _claim(self, events: list[Event]) -> dict[int, str | None]:
        """The owner's id for each duplicate, by the event's identity in this process. Without a key: no entry."""
        by_partition: dict[int, list[Event]] = defaultdict(list)
        for event in events:
            if event.wire.execution_id is not None:
                by_partition[event.partition].append(event)
        owners: dict[int, str | None] = {}
        for partition, asking in by_partition.items():
            claims = [_claim_of(event) for event in asking]
            answers = await retrying("claiming", partial(self._claims.claim, partition, claims))
            owners.update(zip(map(id, asking), answers, strict=True))
        return owners

    async def _imported_before(self, events: list[Event]) -> set[int]:
        """Which of these derived ids are stored from another record, however long ago."""
        by_namespace: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_namespace[event.namespace].append(event)
        found: set[int] = set()
        for namespace, group in by_namespace.items():
            for start in range(0, len(group), IDS_PER_LOOKUP):
                asking = {event.interaction_id: event for event in group[start : start + IDS_PER_LOOKUP]}
                parameters = {"namespace": namespace, "ids": list(asking)}
                rows = await retrying("looking up ids", partial(self._database.rows, _STORED_IDS, parameters))
                for interaction_id, *origin in rows:
                    event = asking[interaction_id]
                    if origin != [self._topic, event.partition, event.offset]:
                        found.add(id(event))
        return found


def _claim_of(event: Event) -> Claim:
    wire = event.wire
    key = dedup_key(event.namespace, wire.execution_id or "", wire.feature_id, wire.interaction_type)
    return Claim(key, event.offset, event.event_ms, event.append_ms, event.interaction_id)
