"""Outcomes of an event: every accepted event reaches exactly one."""

from typing import Any, NamedTuple


class Stored(NamedTuple):
    """Outcome of a stored event; `row` has its public columns."""

    row: dict[str, Any]


class DuplicateOf(NamedTuple):
    """Outcome of a duplicate; the id is that of its owner."""

    interaction_id: str


class RejectedFor(NamedTuple):
    """Outcome of a record that cannot be stored."""

    reason: str
    field: str
    message: str
    replayed_as: str
    """Id under which the dead letter was replayed; empty if it was not."""


class Moved(NamedTuple):
    """Outcome of a misplaced event: the place of its copy, which has no outcome yet."""

    partition: int
    offset: int


class Deleted(NamedTuple):
    """Outcome of an event that was deleted, before or after it was stored."""


Outcome = Stored | DuplicateOf | RejectedFor | Moved | Deleted
