"""The deduplication rule as a plain function of the log: no store, no batches, no crash. What everything must equal."""

from collections.abc import Collection, Iterable
from typing import NamedTuple

REFUSED = "refused by the table"


class LoggedEvent(NamedTuple):
    """Fields of a valid event that the rule compares. Times are in milliseconds since 1970."""

    partition: int
    offset: int
    append_ms: int
    event_ms: int
    identity: tuple[str, str]
    """Namespace and interaction id."""
    key: bytes | None
    id_from_outside: bool = False
    replayed: bool = False


def owners_by_the_rule(
    log: Iterable[LoggedEvent], window_ms: int, refused: Collection[tuple[int, int]] = ()
) -> dict[tuple[int, int], str | None]:
    """For each event by (partition, offset): None if it is stored, else the id that it is a duplicate of.

    Events at the places in `refused` are ones that ClickHouse would not take: they own nothing.
    """
    stored: list[LoggedEvent] = []
    verdicts: dict[tuple[int, int], str | None] = {}
    for event in sorted(log):
        owners = [
            (owner.offset, owner.identity[1])
            for owner in stored
            if owner.partition == event.partition
            and owner.key == event.key is not None
            and abs(event.event_ms - owner.event_ms) < window_ms
            and (event.replayed or event.append_ms - owner.append_ms < 2 * window_ms)
        ]
        if event.id_from_outside and any(
            owner.partition == event.partition and owner.identity == event.identity for owner in stored
        ):
            owners = [(-1, event.identity[1])]
        place = event.partition, event.offset
        verdicts[place] = min(owners)[1] if owners else REFUSED if place in refused else None
        if verdicts[place] is None:
            stored.append(event)
    return verdicts
