"""Ticks: the events of one namespace between two positions of the log, counted by verdict, and the newest of each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from readers.event_conditions import DELETED_COLUMNS, OUTCOME_COLUMNS, EventFilter, matches
from readers.event_models import MAX_RECENT
from readers.event_rows import EventPlace, EventRows
from readers.log_position import LogPosition
from runtime.clickhouse import BoundParameters, ClickHouse
from runtime.settings import Settings
from schemas.event_time import from_epoch_ms
from schemas.tables import DELETIONS, INTERACTIONS, OUTCOMES


class EventRange(NamedTuple):
    """Range of records: offsets of each partition from `first` up to, excluding, `end`, and an earliest append time."""

    first: Sequence[int]
    end: Sequence[int]
    since_ms: int


class TickEvent(NamedTuple):
    """Event of a tick, in the order of time; `text` is its JSON."""

    at_ms: int
    partition: int
    offset: int
    verdict: str
    text: bytes


class Tick(NamedTuple):
    """Events between two positions."""

    start: LogPosition
    end: LogPosition
    counts: Mapping[str, int]
    """Number of events by verdict."""
    events: Sequence[TickEvent]
    """The newest of each verdict, MAX_RECENT at most."""
    skipped: int = 0
    """Records of all namespaces after `start` that were not looked at."""
    nbytes: int = 0
    """Bytes of the events' JSON."""


def fair_shares(counts: Mapping[str, int], most: int) -> dict[str, int]:
    """Share `most` places among verdicts: rare ones get all that they need, the others equal parts of the rest."""
    shares: dict[str, int] = {}
    ascending = sorted(counts.items(), key=lambda item: item[1])
    for number, (verdict, count) in enumerate(ascending):
        shares[verdict] = min(count, most // (len(ascending) - number))
        most -= shares[verdict]
    return shares


def newest_of_each(events: Iterable[TickEvent], most: int) -> list[TickEvent]:
    """Return at most `most` events, the newest of each verdict, in the order of time."""
    by_verdict: dict[str, list[TickEvent]] = {}
    for each in sorted(events, reverse=True):
        by_verdict.setdefault(each.verdict, []).append(each)
    shares = fair_shares({verdict: len(some) for verdict, some in by_verdict.items()}, most)
    return sorted(each for verdict, some in by_verdict.items() for each in some[: shares[verdict]])


class TickReader:
    """Reader of ranges of records. It raises Unavailable and StatementTimeout."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._topic = settings.topic
        self._database = database
        self._rows = EventRows(settings, database)
        self._limits = {"max_execution_time": settings.list_timeout_ms / 1000}

    async def read(
        self, namespace: str, filters: EventFilter, wanted: EventRange
    ) -> tuple[Mapping[str, int], list[TickEvent]]:
        """Return the number of events by verdict, and the newest of each verdict."""
        if all(first >= end for first, end in zip(wanted.first, wanted.end, strict=True)):
            return {}, []
        bind = BoundParameters()
        sql = range_statement(namespace, self._topic, filters, wanted, bind)
        if sql is None:
            return {}, []
        rows = await self._database.rows(sql, bind.values, limits=self._limits)
        counts = {verdict: count for verdict, count, _ in rows}
        shares = fair_shares(counts, MAX_RECENT)
        found = [(verdict, each) for verdict, _, newest in rows for each in newest[: shares[verdict]]]
        return await self._events(namespace, filters, counts, found)

    async def _events(
        self, namespace: str, filters: EventFilter, counts: dict[str, int], found: Sequence[tuple[str, Any]]
    ) -> tuple[Mapping[str, int], list[TickEvent]]:
        """Read the content of the events found. An event that was deleted meanwhile counts as deleted."""
        stored = [place[-1] for verdict, place in found if verdict in ("stored", "deleted")]
        others = [place[-1] for verdict, place in found if verdict != "stored"]
        rows = await self._rows.read(namespace, stored, outcomes=False)
        rows |= await self._rows.read(namespace, others, stored=False)
        events = []
        for verdict, (minus_ms, minus_partition, minus_offset, interaction_id) in found:
            place = EventPlace(interaction_id, self._topic, -minus_partition, -minus_offset)
            shown = rows.get(place)
            now = "deleted" if shown is None else shown["verdict"]
            if now != verdict:
                counts[verdict] -= 1
                if shown is None or now not in filters.verdicts or not filters.columns <= set(DELETED_COLUMNS):
                    continue
                counts[now] = counts.get(now, 0) + 1
            text = msgspec.json.encode(shown)
            events.append(TickEvent(-minus_ms, place.partition, place.offset, now, text))
        return counts, sorted(events)


def range_statement(
    namespace: str, topic: str, filters: EventFilter, wanted: EventRange, bind: BoundParameters
) -> str | None:
    """Return a select of verdict, number of events and the newest places of each; None if no event can match.

    A place is (-ms since 1970, -partition, -offset, interaction_id): the smallest are the newest.
    """
    within = _within(namespace, topic, wanted, bind)
    selects = [_stored(filters, within, bind)]
    if filters.columns <= set(OUTCOME_COLUMNS):
        selects.append(_outcomes(filters, within, bind.bind(namespace, "String"), bind))
    verdicts = bind.bind(list(filters.verdicts), "Array(String)")
    newest = "(-at_ms, -toInt64(_partition), -toInt64(_offset), id)"
    return (
        f"SELECT found, count(), groupArraySorted({MAX_RECENT})({newest}) FROM ({' UNION ALL '.join(selects)}) "
        f"WHERE has({verdicts}, found) GROUP BY found"
    )


def _within(namespace: str, topic: str, wanted: EventRange, bind: BoundParameters) -> str:
    """Return the condition of the range. Its plain bounds of offset and time are those that indexes know."""
    first, end = (bind.bind(list(each), "Array(UInt64)") for each in (wanted.first, wanted.end))
    moving = [(low, high) for low, high in zip(wanted.first, wanted.end, strict=True) if low < high]
    lowest, highest = min(low for low, _ in moving), max(high for _, high in moving)
    return " AND ".join(
        (
            f"namespace = {bind.bind(namespace, 'String')}",
            f"_topic = {bind.bind(topic, 'String')}",
            f"timestamp >= {bind.bind(from_epoch_ms(wanted.since_ms), 'Int64')}",
            f"_offset >= {bind.bind(lowest, 'UInt64')} AND _offset < {bind.bind(highest, 'UInt64')}",
            f"_offset >= {first}[_partition + 1] AND _offset < {end}[_partition + 1]",
        )
    )


def _stored(filters: EventFilter, within: str, bind: BoundParameters) -> str:
    """Select the events of `interactions`. The newest row of a place counts, as with FINAL, which hides tombstones."""
    matching = " AND ".join(matches(filters.texts, bind)) or "1"
    if not filters.columns <= set(DELETED_COLUMNS):
        matching = f"is_deleted = 0 AND {matching}"
    return (
        "SELECT id, _partition, _offset, newest.1 AS at_ms, if(newest.2 = 1, 'deleted', 'stored') AS found FROM ("
        "SELECT any(interaction_id) AS id, _partition, _offset, "
        f"argMax((toUnixTimestamp64Milli(timestamp), is_deleted, ifNull({matching}, 0)), version) AS newest "
        f"FROM {INTERACTIONS} PREWHERE {within} GROUP BY _partition, _offset) WHERE newest.3"
    )


def _outcomes(filters: EventFilter, within: str, space: str, bind: BoundParameters) -> str:
    """Select the events of `outcomes`. Only the deletions of their own ids are read."""
    own = f"SELECT interaction_id FROM {OUTCOMES} PREWHERE {within}"
    gone = f"SELECT interaction_id FROM {DELETIONS} WHERE namespace = {space} AND interaction_id IN ({own})"
    matching = " AND ".join(matches(filters.texts, bind)) or "1"
    if not filters.columns <= set(DELETED_COLUMNS):
        matching = f"NOT is_gone AND {matching}"
    return (
        "SELECT any(interaction_id) AS id, _partition, _offset, any(toUnixTimestamp64Milli(timestamp)) AS at_ms, "
        "any(if(verdict != 'moved' AND is_gone, 'deleted', toString(verdict))) AS found "
        f"FROM (SELECT *, interaction_id IN ({gone}) AS is_gone FROM {OUTCOMES} PREWHERE {within}) "
        f"WHERE {matching} GROUP BY _partition, _offset"
    )
