"""Comparison of a training set with the log: whether it still gives the same bytes, and why not."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from learning.scope import Refusal
from learning.training import Progress, query_rows, write_training
from learning.training_formats import DigestFile, FileDigest, suffixes_of
from learning.training_manifest import Manifest
from learning.training_sql import LogPart, select_deleted, select_log_parts, within
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.event_time import to_epoch_ms

LISTED_IDS = 10
"""Maximum deleted events that a comparison names."""


class PartChange(NamedTuple):
    """Change of the stored rows of one partition of the log since a training set was made."""

    topic: str
    partition: int
    deleted: int
    """Events deleted since."""
    missing: int
    """Rows that are gone for another reason."""
    added: int
    """Rows below the recorded offset that are stored now and were not."""
    first: int | None = None
    """Lowest offset that is stored now, if it differs from the recorded one and the rows are as many."""


class TrainingComparison(NamedTuple):
    """Comparison of a training set with the log as it is stored now."""

    is_same: bool
    """Whether the log gives the same bytes."""
    refusal: str
    """Reason why the log gives no training set now; else empty."""
    files: Sequence[FileDigest]
    """Files as the log gives them now."""
    changes: Sequence[PartChange]
    deleted_ids: Sequence[str]
    """At most LISTED_IDS of the deleted events."""
    writer: str
    """Version of pyarrow that compared."""

    def reasons(self, manifest: Manifest) -> list[str]:
        """Return the known reasons of a difference. With the same bytes: differences from the recorded rows alone."""
        deleted = sum(change.deleted for change in self.changes)
        found = []
        if deleted:
            named = ", ".join(self.deleted_ids)
            more = ", ..." if deleted > len(self.deleted_ids) else ""
            found.append(f"{deleted:,} of the events that it was made from {_is(deleted)} deleted since: {named}{more}")
        for change in self.changes:
            place = f"of partition {change.partition} of topic {change.topic}"
            if change.missing:
                found.append(f"{_rows(change.missing)} {place} {_is(change.missing)} gone, such as by retention")
            if change.added:
                new = f"{_rows(change.added)} {place} below the recorded offset {_is(change.added)} new"
                found.append(f"{new}, such as by a replay")
            if change.first is not None:
                found.append(
                    f"the first row {place} is at offset {change.first:,}, and the manifest has another offset"
                )
        if self.is_same:
            return found
        if self.refusal:
            found.append(f"the log gives no training set now: {self.refusal}")
        if self.writer != manifest.writer:
            found.append(f"it was written by pyarrow {manifest.writer}, which may encode otherwise than {self.writer}")
        return found or ["the reason is not known: the rows are as many as they were"]


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


async def compare(settings: Settings, database: ClickHouse, manifest: Manifest, report: Progress) -> TrainingComparison:
    """Read the log as the manifest says, and compare the bytes. Raises RangeTooLarge and Unavailable."""
    request, parts = manifest.request, manifest.snapshot.parts
    files = {suffix: DigestFile(suffix, None) for suffix in suffixes_of(request)}
    refusal = ""
    try:
        written = (await write_training(settings, database, request, manifest.snapshot, files, report)).files
    except Refusal as error:
        written, refusal = [], str(error)
    is_same = list(written) == [digest for _name, digest in manifest.files]
    changes, ids = await _changes(settings, database, manifest, parts)
    return TrainingComparison(is_same, refusal, written, changes, ids, pa.__version__)


async def _changes(
    settings: Settings, database: ClickHouse, manifest: Manifest, parts: Sequence[LogPart]
) -> tuple[list[PartChange], list[str]]:
    bound = within(manifest.request, parts)
    created = {"created": to_epoch_ms(manifest.snapshot.created_at)}
    now = await query_rows(settings, database, select_log_parts(until_the_last=True), bound)
    deleted = await query_rows(settings, database, select_deleted(LISTED_IDS), {**bound, **created})
    rows_now: Mapping[tuple[str, int], int] = {(topic, partition): rows for topic, partition, _, _, rows in now}
    first_now = {(topic, partition): first for topic, partition, first, _, _ in now}
    rows_deleted = {(topic, partition): rows for topic, partition, rows, _ in deleted}
    changes = []
    for part in parts:
        place = (part.topic, part.partition)
        lost, gone = part.rows - rows_now.get(place, 0), rows_deleted.get(place, 0)
        first = first_now[place] if not lost and first_now.get(place, part.first) != part.first else None
        change = PartChange(*place, gone, max(0, lost - gone), max(0, -lost), first)
        if any(change[2:5]) or first is not None:
            changes.append(change)
    return changes, sorted(each for *_, ids in deleted for each in ids)[:LISTED_IDS]
