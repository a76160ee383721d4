"""Content of events at known places, from `interactions` and `outcomes`.

Queries over a range find places; this module reads the few events that are shown. A deleted event shows its ids and
place only, also where its row still has more.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from readers.event_models import EVENT_FIELDS, MAX_QUERY_CHARACTERS
from readers.lookup import IDS_PER_QUERY
from readers.outcomes import explain
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms, iso_ms
from schemas.sql_text import literal
from schemas.tables import DELETIONS, INTERACTIONS, OUTCOMES

_EMPTY: dict[str, Any] = dict.fromkeys(EVENT_FIELDS)
_PLACE = "interaction_id, toUnixTimestamp64Milli(timestamp) AS at_ms, _topic, _partition, _offset"
_IS_AMONG = "namespace = {namespace:String} AND interaction_id IN {ids:Array(String)}"
_IS_DELETED = f"interaction_id IN (SELECT interaction_id FROM {DELETIONS} WHERE {_IS_AMONG})"
# The row that was inserted last has the id under which a dead letter was replayed.
_OUTCOMES_AMONG = f"""
SELECT {_PLACE}, toString(verdict), {_IS_DELETED}, duplicate_of, reason, field, message, replayed_as,
    _copy_partition, _copy_offset, user_id, execution_id, if(verdict = 'duplicate', _event_time_ms, 0)
FROM {OUTCOMES} WHERE {_IS_AMONG}
ORDER BY replayed_as DESC LIMIT 1 BY interaction_id, _topic, _partition, _offset
"""

_Text = str | None
_StoredRow = tuple[str, int, str, int, int, int, int, list[str], str, int, _Text, str, _Text, _Text, _Text]
_OutcomeRow = tuple[str, int, str, int, int, str, int, str, str, str, str, str, int, int, _Text, _Text, int]
_read_interactions = msgspec.json.Decoder(_StoredRow).decode_lines
_read_outcomes = msgspec.json.Decoder(_OutcomeRow).decode_lines


class EventPlace(NamedTuple):
    """Identity of an event: its id, and the place of its record in the log."""

    interaction_id: str
    topic: str
    partition: int
    offset: int


EventsByPlace = dict[EventPlace, dict[str, Any]]


def _interactions_among(settings: Settings) -> str:
    path = ", ".join(map(literal, settings.query_path))
    query = f"substringUTF8(JSONExtractString(query_snapshot, {path}), 1, {MAX_QUERY_CHARACTERS})"
    return f"""
SELECT {_PLACE}, is_deleted, toUnixTimestamp64Milli(event_time), interaction_type, feature_id, position, retriever_id,
    {query}, user_id, session_id, execution_id
FROM {INTERACTIONS} PREWHERE {_IS_AMONG}
ORDER BY version DESC LIMIT 1 BY interaction_id, _topic, _partition, _offset
"""


class EventRows:
    """Reader of events by id. It raises Unavailable."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._database = database
        self._interactions = _interactions_among(settings)

    async def read(
        self, namespace: str, ids: Iterable[str], *, stored: bool = True, outcomes: bool = True
    ) -> EventsByPlace:
        """Return all events with these ids by place; `stored` and `outcomes` choose the tables."""
        unique = list(dict.fromkeys(ids))
        some = [unique[start : start + IDS_PER_QUERY] for start in range(0, len(unique), IDS_PER_QUERY)]
        found: EventsByPlace = {}
        reads = [self._read_stored(namespace, each) for each in some if stored]
        reads += [self._read_outcomes(namespace, each) for each in some if outcomes]
        for rows in await asyncio.gather(*reads):
            found |= rows
        return found

    async def _read_stored(self, namespace: str, ids: Sequence[str]) -> EventsByPlace:
        answer = await self._database.fetch(self._interactions, {"namespace": namespace, "ids": ids})
        return dict(map(_of_interaction, _read_interactions(answer)))

    async def _read_outcomes(self, namespace: str, ids: Sequence[str]) -> EventsByPlace:
        answer = await self._database.fetch(_OUTCOMES_AMONG, {"namespace": namespace, "ids": ids})
        return dict(map(_of_outcome, _read_outcomes(answer)))


def _of_interaction(row: Sequence[Any]) -> tuple[EventPlace, dict[str, Any]]:
    interaction_id, at_ms, topic, partition, offset, is_deleted, event_ms, *content = row
    place = EventPlace(interaction_id, topic, partition, offset)
    types, feature_id, position, retriever_id, query, user_id, session_id, execution_id = content
    if is_deleted:
        return place, _deleted(place, at_ms, execution_id)
    return place, _event(place, at_ms, "stored") | {
        "event_time": iso_ms(from_epoch_ms(event_ms)),
        "interaction_type": types,
        "feature_id": feature_id,
        "position": position,
        "retriever_id": retriever_id,
        "query": query or None,
        "user_id": user_id,
        "session_id": session_id,
        "execution_id": execution_id,
    }


def _of_outcome(row: Sequence[Any]) -> tuple[EventPlace, dict[str, Any]]:
    interaction_id, at_ms, topic, partition, offset, verdict, is_deleted, *content = row
    place = EventPlace(interaction_id, topic, partition, offset)
    duplicate_of, reason, field, message, replayed_as, copy_partition, copy_offset, *context, event_ms = content
    user_id, execution_id = context
    moved_to = f"{copy_partition}/{copy_offset}" if verdict == "moved" else None
    if is_deleted and verdict != "moved":
        return place, _deleted(place, at_ms, execution_id)
    shown = _event(place, at_ms, verdict) | {"execution_id": execution_id, "moved_to": moved_to}
    if is_deleted:
        return place, shown
    return place, shown | {
        "event_time": iso_ms(from_epoch_ms(min(event_ms, at_ms))) if event_ms else None,
        "user_id": user_id,
        "duplicate_of": duplicate_of or None,
        "reason": reason,
        "explanation": explain(reason),
        "field": field or None,
        "message": message or None,
        "replayed_as": replayed_as or None,
    }


def _event(place: EventPlace, at_ms: int, verdict: str) -> dict[str, Any]:
    return {**_EMPTY, **place._asdict(), "verdict": verdict, "timestamp": iso_ms(from_epoch_ms(at_ms))}


def _deleted(place: EventPlace, at_ms: int, execution_id: str | None) -> dict[str, Any]:
    return _event(place, at_ms, "deleted") | {"execution_id": execution_id}
