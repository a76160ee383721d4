"""Invariants after every run."""

from collections.abc import Mapping
from typing import Any

from consumers.batch import Batch
from consumers.events import Event
from consumers.records import Records, event_limits
from consumers.validation import Validation
from kernels.boundary import SPAN_AT
from readers.audit import audit
from readers.deep_audit import deep_audit
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas import letter
from tests.chaos.traffic import NARROWED_BYTES
from tests.lab import read_topic, reading
from tests.reference import REFUSED, LoggedEvent, owners_by_the_rule

Place = tuple[int, int]


def expected_outcomes(settings: Settings, records: Records, *, narrowed: bool) -> dict[Place, str]:
    """Return by place: `stored ID`, `duplicate of ID`, `rejected REASON` or `moved to PARTITION`, from the log alone.

    The copies of moved events are in the log, and validated there: the same holds however often a crash has
    repeated them.
    """
    events: list[Event] = []
    too_long: set[Place] = set()
    outcomes: dict[Place, str] = {}
    for partition in range(settings.partitions):
        ours = records[records.partitions == partition]
        if len(ours):
            found = Validation(settings.topic, settings.namespace, settings.partitions).validate(Batch(ours))
            misplaced = found.events.misplaced
            events += found.events[~misplaced]
            outcomes |= {
                (partition, offset): f"moved to {home}"
                for offset, home in zip(
                    found.events.offsets[misplaced].tolist(), found.events.homes[misplaced].tolist(), strict=True
                )
            }
            outcomes |= {(partition, each.offset): f"rejected {each.rejection.reason}" for each in found.rejected}
            metadata_bytes = found.events.columns.spans[:, SPAN_AT["metadata"], 2]
            too_long |= {
                (partition, offset)
                for offset in found.events.offsets[metadata_bytes > NARROWED_BYTES].tolist()
                if narrowed
            }
    log = [
        LoggedEvent(
            event.partition,
            event.offset,
            event.append_ms,
            event.event_ms,
            (event.namespace, event.interaction_id),
            event.key,
            event.may_repeat_id,
            event.replayed,
        )
        for event in events
    ]
    verdicts = owners_by_the_rule(log, settings.dedup_window_ms, too_long)
    for event in events:
        place = event.partition, event.offset
        owner = verdicts[place]
        outcomes[place] = (
            f"stored {event.interaction_id}"
            if owner is None
            else "rejected refused_by_table"
            if owner == REFUSED
            else f"duplicate of {owner}"
        )
    return outcomes


async def recorded_outcomes(database: ClickHouse, topic: str) -> tuple[dict[Place, str], list[str]]:
    """The same from the tables, and what is wrong with them already."""
    rows: list[Any] = list(
        await database.rows(
            "SELECT _partition, _offset, concat('stored ', interaction_id) FROM interactions FINAL "
            "WHERE _topic = {topic:String} UNION ALL SELECT _partition, _offset, "
            "multiIf(verdict = 'duplicate', concat('duplicate of ', duplicate_of), "
            "verdict = 'moved', concat('moved to ', toString(_copy_partition)), concat('rejected ', reason)) "
            "FROM outcomes FINAL WHERE _topic = {topic:String}",
            {"topic": topic},
        )
    )
    outcomes: dict[Place, str] = {}
    problems = []
    for partition, offset, outcome in rows:
        if (partition, offset) in outcomes:
            problems.append(f"{partition}/{offset} twice: {outcomes[partition, offset]}, {outcome}")
        outcomes[partition, offset] = outcome
    return outcomes, problems


async def problems_of(
    settings: Settings, database: ClickHouse, *, narrowed: bool, must_reject: Mapping[Place, str]
) -> list[str]:
    """Everything that is not as an undisturbed run would have left it.

    `must_reject` has the reasons that the makers of hostile batches know, so that the reader of batches is not its own
    reference.
    """
    records = await read_topic(settings, settings.topic, event_limits(settings))
    expected = expected_outcomes(settings, records, narrowed=narrowed)
    recorded, problems = await recorded_outcomes(database, settings.topic)
    problems += compared(expected, recorded)
    problems += [
        f"{place}: {recorded.get(place, 'lost')} instead of rejected {reason}"
        for place, reason in sorted(must_reject.items())
        if recorded.get(place) != f"rejected {reason}"
    ]
    async with reading(settings, settings.dead_letter_topic_name) as letters:
        origins = {
            (int(headers[letter.PARTITION]), int(headers[letter.OFFSET]))
            for headers in (dict(each.headers) for each in letters)
        }
    rejected = {place for place, outcome in expected.items() if outcome.startswith("rejected")}
    if origins != rejected:
        problems.append(f"letters of {sorted(origins ^ rejected)[:5]} are missing or too many")
    async for partition in audit(settings, database):
        if not partition.balances or partition.in_flight:
            problems.append(f"the audit of partition {partition.partition} does not balance: {partition}")
    deep = await deep_audit(settings, database)
    return problems + deep.ids_twice + deep.stored_apart + deep.wrong_owners + deep.lost_moves


def compared(expected: dict[Place, str], recorded: dict[Place, str]) -> list[str]:
    """Where two accounts of one log differ."""
    return [
        f"{place}: {expected.get(place, 'no record')} became {recorded.get(place, 'lost')}"
        for place in sorted(expected.keys() | recorded.keys())
        if expected.get(place) != recorded.get(place)
    ]
