"""Outcomes of an event: every accepted one reaches exactly one of these."""

from typing import Any, NamedTuple


class Stored(NamedTuple):
    """The event is stored; `row` has the public columns."""

    row: dict[str, Any]


class DuplicateOf(NamedTuple):
    """The event repeats a stored one."""

    interaction_id: str


class RejectedFor(NamedTuple):
    """The event could never be valid."""

    reason: str
    field: str
    message: str
    replayed_as: str
    """The id under which it was put on the topic again; empty if it was not."""


class Moved(NamedTuple):
    """The event lay on another partition than its key's; what its copy there comes to is not known yet.

    Where the copy lies.
    """

    partition: int
    offset: int


class Deleted(NamedTuple):
    """The event was deleted, before or after it was stored."""


Outcome = Stored | DuplicateOf | RejectedFor | Moved | Deleted
