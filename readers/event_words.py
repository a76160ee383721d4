"""Explanations of an event's status: why it has this status, and what happens next."""

from typing import Any

from readers.outcomes import explain
from readers.reader import EventStatus

_WHY = {
    "stored": "The event is stored: no event with its key was stored within the deduplication window before it",
    "accepted": "The event has no outcome yet: it may be on the topic, where a worker will decide about it",
    "deleted": "The event was deleted",
    "unknown": "No event with this id was accepted in this namespace, or its outcome has expired",
}
_NEXT = {
    "stored": "Nothing: lookups, lists and reports have it",
    "accepted": "A worker decides about it: see in_flight, and ask again",
    "deleted": "Nothing: a deletion is final, also if the event is delivered again",
    "unknown": "Check the id and the namespace; a request that the API refused leaves no event",
}


def describe(
    status: EventStatus, event: dict[str, Any] | None, owner: dict[str, Any] | None, replay: EventStatus | None
) -> tuple[str, str]:
    """Return why an event has its status, and what happens next.

    `owner` is the event that a duplicate repeats, `replay` the status of a replayed dead letter.
    """
    reason = event["reason"] if event is not None and event["reason"] else status.reason
    if status.status == "duplicate":
        why = f"The event repeats {status.duplicate_of}" + (f": {explain(reason)}" if reason else "")
        if owner is None or owner["verdict"] != "stored":
            return why, "Nothing: it stays a duplicate, although the event that it repeats is deleted or has expired"
        return why, "Nothing: the event that it repeats is stored and counts in its place"
    if status.status == "rejected":
        details = ": ".join(filter(None, (status.field, status.message)))
        why = f"The event was rejected: {explain(reason or '')}" + (f" ({details})" if details else "")
        if replay is None:
            return why, "Its record waits as a dead letter: correct it, and replay it"
        return why, f"Its dead letter was replayed as {replay.interaction_id}, whose status is {replay.status}"
    return _WHY[status.status], _NEXT[status.status]
