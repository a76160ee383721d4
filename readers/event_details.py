"""State of one event: its outcome and why, what happens next, and the events it is related to."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import Raw

from readers.event_models import BriefEvent
from readers.event_rows import EventRows
from readers.event_words import describe
from readers.progress import ConsumerProgress
from readers.reader import EventStatus, check_id, status_of
from readers.waiting import OutcomeWaiter
from runtime.clickhouse import ClickHouse
from runtime.http.service import Stores
from runtime.settings import Settings
from schemas.dedup import dedup_key
from schemas.event_time import parse_occurred_at, to_epoch_ms
from schemas.identity import PREFIX
from schemas.outcome import Stored
from schemas.record import encode_record
from schemas.tables import INTERACTIONS, OUTCOMES

MAX_DUPLICATES = 20
MAX_PARTITIONS = 100
_BRIEF = tuple(BriefEvent.model_fields)
# Ids begin with their time, so the duplicates' are near each other in the table. A repeat of the id itself may be
# anywhere.
_DUPLICATES = f"""
SELECT interaction_id FROM {OUTCOMES}
WHERE namespace = {{namespace:String}} AND duplicate_of = {{id:String}} AND verdict = 'duplicate'
    AND (interaction_id = {{id:String}} OR interaction_id >= {{first:String}} AND interaction_id < {{end:String}})
GROUP BY interaction_id, _topic, _partition, _offset ORDER BY interaction_id
"""
_KEY_PARTS = f"""
SELECT feature_id, interaction_type, execution_id, _idempotency_key, _keyed FROM {INTERACTIONS}
PREWHERE namespace = {{namespace:String}} AND interaction_id = {{id:String}}
WHERE is_deleted = 0 ORDER BY version DESC LIMIT 1
"""


class _Related(NamedTuple):
    """Events related to one: the owner, the duplicates, and the replay."""

    owner: dict[str, Any] | None = None
    duplicates: Sequence[dict[str, Any]] = ()
    duplicates_total: int = 0
    replay: EventStatus | None = None


class EventDetailsReader:
    """Reader of single events with their surroundings. Raises ApiError and Unavailable."""

    def __init__(self, settings: Settings, stores: Stores, progress: ConsumerProgress, waiting: OutcomeWaiter) -> None:
        self._settings = settings
        self._database: ClickHouse = stores.lookups
        self._rows = EventRows(settings, stores.lookups)
        self._progress = progress
        self._waiting = waiting

    async def read(self, namespace: str, interaction_id: str) -> dict[str, Any]:
        """Return what is known of an event, as `EventDetails`."""
        check_id(interaction_id)
        looked = await self._waiting.lookup(namespace, interaction_id)
        status = status_of(interaction_id, looked)
        event = await self._event(namespace, status)
        related = await self._related(namespace, status, event)
        row = looked.outcome.row if isinstance(looked.outcome, Stored) else None
        key_of = interaction_id if row else status.duplicate_of
        explanation, following = describe(status, event, related.owner, related.replay)
        return {
            "interaction_id": interaction_id,
            "status": status.status,
            "event": event,
            "record": Raw(encode_record(row)) if row else None,
            "explanation": explanation,
            "next": following,
            "owner": _brief(related.owner),
            "copy_of_replay": related.replay.status if related.replay else None,
            "duplicates": [_brief(each) for each in related.duplicates],
            "duplicates_total": related.duplicates_total,
            "in_flight": self._in_flight() if status.status == "accepted" else None,
            "dead_letter": f"{event['partition']}/{event['offset']}" if event and status.status == "rejected" else None,
            "deduplication": await self._deduplication(namespace, key_of) if key_of else None,
        }

    async def _event(self, namespace: str, status: EventStatus) -> dict[str, Any] | None:
        """Return the event that has the status; a moved event without another outcome while it is in flight."""
        found = await self._rows.read(namespace, [status.interaction_id])
        wanted = "moved" if status.status == "accepted" else status.status
        fitting = [each for _, each in sorted(found.items()) if each["verdict"] == wanted]
        if wanted == "rejected":
            fitting.sort(key=lambda each: (each["replayed_as"] or "") != (status.replayed_as or ""))
        return fitting[0] if fitting else None

    async def _related(self, namespace: str, status: EventStatus, event: dict[str, Any] | None) -> _Related:
        if status.duplicate_of:
            found = await self._rows.read(namespace, [status.duplicate_of], outcomes=False)
            return _Related(owner=next((each for _, each in sorted(found.items())), None))
        if status.replayed_as:
            looked = await self._waiting.lookup(namespace, status.replayed_as)
            return _Related(replay=status_of(status.replayed_as, looked))
        if status.status == "stored" and event is not None:
            return await self._duplicates(namespace, event)
        return _Related()

    async def _duplicates(self, namespace: str, event: dict[str, Any]) -> _Related:
        """Return the duplicates whose ids are of the time in which the rule finds them."""
        reach_ms = self._settings.reach_back_ms + self._settings.delivery_timeout_ms + self._settings.collector_ack_ms
        times = [to_epoch_ms(parse_occurred_at(event[name])) for name in ("event_time", "timestamp")]
        where = {
            "namespace": namespace,
            "id": event["interaction_id"],
            "first": _first_id(min(times) - reach_ms),
            "end": _first_id(max(times) + reach_ms),
        }
        limits = {"max_execution_time": self._settings.list_timeout_ms / 1000}
        rows = await self._database.rows(_DUPLICATES, where, limits=limits)
        ids = [interaction_id for (interaction_id,) in rows[:MAX_DUPLICATES]]
        found = await self._rows.read(namespace, ids, stored=False)
        shown = [each for _, each in sorted(found.items()) if each["verdict"] in ("duplicate", "deleted")]
        return _Related(duplicates=shown[:MAX_DUPLICATES], duplicates_total=len(rows))

    async def _deduplication(self, namespace: str, interaction_id: str) -> dict[str, Any] | None:
        """Return the rule and the values of a stored event's key; None of one that is not stored."""
        rows = await self._database.rows(_KEY_PARTS, {"namespace": namespace, "id": interaction_id})
        if not rows:
            return None
        feature_id, types, execution_id, token, is_keyed = rows[0]
        key = dedup_key(namespace, execution_id, feature_id, types, token) if is_keyed else None
        by_execution = key is not None and bool(execution_id)
        return {
            "rule": "none" if key is None else "execution" if by_execution else "idempotency_key",
            "key": key.hex() if key else None,
            "execution_id": execution_id if by_execution else None,
            "feature_id": feature_id if by_execution else None,
            "interaction_type": sorted(set(types)) if by_execution else None,
            "idempotency_key": token if key is not None and not by_execution else None,
            "window_ms": self._settings.dedup_window_ms,
        }

    def _in_flight(self) -> dict[str, Any]:
        lagging = sorted(((lag, number) for number, lag in self._progress.waiting.items() if lag), reverse=True)
        return {
            "records": sum(self._progress.waiting.values()),
            "partition_lag": [{"partition": number, "lag": lag} for lag, number in lagging[:MAX_PARTITIONS]],
            "lag_ms": self._progress.lag_ms,
        }


def _brief(event: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if event is None else {name: event[name] for name in _BRIEF}


def _first_id(epoch_ms: int) -> str:
    """Return the beginning of the ids of a time."""
    return f"{PREFIX}{max(0, epoch_ms):012x}"
