"""Faults of tracking that the simulator plants on request: invalid events, and executions with gaps or wrong values."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, NamedTuple, get_args

from schemas.event_time import from_epoch_ms
from schemas.interaction import Interaction

Fault = Literal[
    "negative_position",  # the first impression has position -1: rejected
    "unknown_type",  # an extra event of type hover: rejected
    "no_impressions",  # the impressions of an execution are missing
    "click_without_impression",  # an extra click on a document that was not shown
    "position_beyond_results",  # the last impression has a position beyond result_set_size
    "no_query",  # query_snapshot is missing in an execution
    "no_feature_uri",  # feature_uri is missing in an execution
    "clock_ahead",  # occurred_at is hours ahead in an execution
    "bot",  # a session with many executions, one every few seconds
]
INVALID_EVENTS: frozenset[Fault] = frozenset({"negative_position", "unknown_type"})
"""Faults that a worker rejects."""
FAULTS_OF_EXECUTIONS: tuple[Fault, ...] = get_args(Fault)[:-1]

BOTS = 3
BOT_EXECUTIONS = 40
BOT_PAUSE_MS = 2_000
CLOCK_AHEAD = timedelta(hours=3)
_BEYOND = 7
_HOVER = "hover"
_NOT_SHOWN = "doc-discontinued"


class Timed(NamedTuple):
    """Event with the time, in ms since 1970, by which it is ordered. `fault` is on the one event that counts it."""

    ms: int
    event: Interaction
    fault: Fault | None = None


def plant(fault: Fault, events: list[Timed], source: random.Random) -> list[Timed]:
    """Return the events of one execution with a fault; unchanged where the fault needs impressions and none are there.

    The result is in the order of time if `events` is.
    """
    shown = [index for index, each in enumerate(events) if each.event.interaction_type == ["impression"]]
    if not shown and fault not in {"no_query", "clock_ahead"}:
        return events
    changed = _CHANGES[fault](list(events), shown, source)
    if changed:
        changed[0] = changed[0]._replace(fault=fault)
    return changed


def _changed(timed: Timed, **values: Any) -> Timed:
    return timed._replace(event=timed.event.model_copy(update=values))


def _negative_position(events: list[Timed], shown: list[int], _source: random.Random) -> list[Timed]:
    first = events.pop(shown[0])
    return [_changed(first, position=-1), *events]


def _unknown_type(events: list[Timed], shown: list[int], _source: random.Random) -> list[Timed]:
    return [_changed(events[shown[0]], interaction_type=[_HOVER]), *events]


def _no_impressions(events: list[Timed], shown: list[int], _source: random.Random) -> list[Timed]:
    return [each for index, each in enumerate(events) if index not in set(shown)]


def _click_without_impression(events: list[Timed], shown: list[int], source: random.Random) -> list[Timed]:
    result = events[source.choice(shown)]
    return [_changed(result, interaction_type=["click"], feature_id=_NOT_SHOWN), *events]


def _position_beyond_results(events: list[Timed], shown: list[int], _source: random.Random) -> list[Timed]:
    last = events[shown[-1]]
    events[shown[-1]] = _changed(last, position=last.event.position + _BEYOND)
    return events


def _no_query(events: list[Timed], _shown: list[int], _source: random.Random) -> list[Timed]:
    return [_changed(each, query_snapshot=None) for each in events]


def _no_feature_uri(events: list[Timed], _shown: list[int], _source: random.Random) -> list[Timed]:
    return [_changed(each, feature_uri=None) for each in events]


def _clock_ahead(events: list[Timed], _shown: list[int], _source: random.Random) -> list[Timed]:
    return [_changed(each, occurred_at=from_epoch_ms(each.ms) + CLOCK_AHEAD) for each in events]


_CHANGES: dict[Fault, Callable[[list[Timed], list[int], random.Random], list[Timed]]] = {
    "negative_position": _negative_position,
    "unknown_type": _unknown_type,
    "no_impressions": _no_impressions,
    "click_without_impression": _click_without_impression,
    "position_beyond_results": _position_beyond_results,
    "no_query": _no_query,
    "no_feature_uri": _no_feature_uri,
    "clock_ahead": _clock_ahead,
}
