"""Negative controls: each breaks one promise in a worker's process, and the campaign must notice."""

from collections.abc import Callable
from typing import Any

import numpy as np

import consumers.claims.script
import consumers.sink
import runtime.session_signals
from consumers.claims.owners import DuplicateResolver
from consumers.group import BatchGroup
from consumers.pipeline import Pipeline
from consumers.resume import Resume
from runtime.faults import clickhouse as faults
from tests.chaos.learned import SUMMING


def _claims_without_owner() -> None:
    """A redelivered event finds its key claimed, and not by whom: as with SET NX."""
    owner_of = DuplicateResolver._owner_of

    def any_owner_of(self: Any, event: Any, near: Any, replayed: bool) -> Any:
        return owner_of(self, event._replace(offset=event.offset + 1), near, replayed)

    DuplicateResolver._owner_of = any_owner_of  # type: ignore[method-assign]


def _commit_before_insert() -> None:
    store = Pipeline._store

    async def commit_first(self: Pipeline, group: BatchGroup) -> BatchGroup:
        await self._steps.commit(group.next_offsets)
        return await store(self, group)

    Pipeline._store = commit_first  # type: ignore[method-assign]


def _skip_by_maximum() -> None:
    """Everything up to the highest stored offset is taken for stored."""

    async def drop_below(self: Any, batch: Any, validated: Any) -> int:
        before = len(validated.events) + len(validated.rejected)
        kept = [event.offset >= self._horizon(event.partition) for event in validated.events]
        validated.events, validated.done = validated.events[np.array(kept, np.bool_)], validated.done[kept]
        validated.rejected = [each for each in validated.rejected if each.offset >= self._horizon(each.partition)]
        return before - len(validated.events) - len(validated.rejected)

    Resume.drop_stored = drop_below  # type: ignore[method-assign]


def _token_by_first_offset() -> None:
    def token(topic: str, inserted: Any) -> str:
        first = next(((each.partitions[0], each.offsets[0]) for each in inserted if len(each.offsets)), None)
        return f"{topic} {first}"

    consumers.sink.insert_token = token


def _poison_on_too_many_parts() -> None:
    faults.CLICKHOUSE_POISON[252] = "TOO_MANY_PARTS"


def _claims_that_forget() -> None:
    """Lost claims are taken for empty ones."""
    for text, broken in (
        ('return { "lost", space, 0, 0, 0 }', 'return { "held", space, 0, 0, 0 }'),
        ("if state.count ~= count and", "if false and"),
    ):
        assert text in consumers.claims.script.SCRIPT
        consumers.claims.script.SCRIPT = consumers.claims.script.SCRIPT.replace(text, broken)


def _sessions_without_offset() -> None:
    """Session signals are added as they come, whatever was added before."""
    test = "if offset >= from[partition] and offset > last[partition] then"
    assert test in runtime.session_signals.SCRIPT
    runtime.session_signals.SCRIPT = runtime.session_signals.SCRIPT.replace(test, "if true then")


def _counts_summed_on_insert() -> None:
    """Workers are as they are: the campaign itself counts with the wrong counter (`tests/chaos/learned.py`)."""


CONTROLS: dict[str, Callable[[], None]] = {
    "claims-without-owner": _claims_without_owner,
    "commit-before-insert": _commit_before_insert,
    "skip-by-maximum": _skip_by_maximum,
    "token-by-first-offset": _token_by_first_offset,
    "claims-that-forget": _claims_that_forget,
    "poison-on-252": _poison_on_too_many_parts,
    "sessions-without-offset": _sessions_without_offset,
    SUMMING: _counts_summed_on_insert,
}
