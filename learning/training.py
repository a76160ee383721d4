"""Training sets: a row for each result shown, read from the log up to a snapshot and written as it is read."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from learning.arrow_stream import record_batches
from learning.scope import Refusal
from learning.training_formats import DigestFile, FileDigest, TrainingWriter, writer_of
from learning.training_groups import RowGroups
from learning.training_request import TrainingRequest
from learning.training_rows import TrainingRows, results_of, training_rows
from learning.training_sql import LogPart, event_parameters, range_of, select_events, select_log_parts
from runtime.analytics import RangeTooLarge, range_errors, report_limits
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementTimeout
from runtime.settings import Settings
from schemas.event_time import to_epoch_ms

STREAM_SETTINGS: dict[str, object] = {
    # Executions that are sent together: their texts, of at most 64 KiB each, are held by ClickHouse and this process.
    "max_block_size": 2_048,
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_json_quote_64bit_integers": 0,
}
Progress = Callable[[int, int], None]
"""Function that gets the rows and bytes so far."""


class Snapshot(NamedTuple):
    """Part of the log that a training set is made from: the rows that were stored at one moment."""

    created_at: datetime
    """Time of ClickHouse when the snapshot was taken."""
    parts: Sequence[LogPart]


class PartCounts(NamedTuple):
    """Counts of the training or validation part."""

    rows: int = 0
    executions: int = 0
    positives: int = 0
    """Rows with a label above 0."""


class TrainingCounts(NamedTuple):
    """Counts of a training set."""

    train: PartCounts = PartCounts()
    validation: PartCounts = PartCounts()
    open_horizon: int = 0
    """Rows whose horizon ended after the snapshot: later events might have changed their label."""
    unknown_propensity: int = 0
    """Results at a position without a propensity, if propensities were given. Label `ips` leaves them out."""
    nulls: Mapping[str, int] = MappingProxyType({})
    """Rows without a number for a feature, by feature."""

    @property
    def total(self) -> PartCounts:
        """Counts of both parts together."""
        return _sum(self.train, self.validation)

    def as_json(self) -> dict[str, Any]:
        """Return the counts as an object."""
        parts = {"train": self.train._asdict(), "validation": self.validation._asdict()}
        return {**self.total._asdict(), **self._asdict(), **parts, "nulls": dict(self.nulls)}


class TrainingSet(NamedTuple):
    """Training set that was written."""

    counts: TrainingCounts
    files: Sequence[FileDigest]
    schema: pa.Schema


async def take_snapshot(settings: Settings, database: ClickHouse, request: TrainingRequest) -> Snapshot:
    """Return the offsets up to which the log is read. Raises RangeTooLarge and Unavailable."""
    ((created_at,),) = await database.rows("SELECT now64(3, 'UTC')")
    found = await query_rows(settings, database, select_log_parts(until_the_last=False), range_of(request))
    return Snapshot(created_at, [LogPart(*row) for row in found])


async def query_rows(
    settings: Settings, database: ClickHouse, sql: str, parameters: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    """Return the rows of a statement in JSONCompactEachRow, within the bounds of an export."""
    found = bytearray()
    with export_errors(settings):
        async with database.stream(
            sql, parameters, settings=_bounds(settings), timeout_s=settings.export_timeout_ms / 1000
        ) as pieces:
            async for piece in pieces:
                found += piece
    return [json.loads(line) for line in found.splitlines()]


async def write_training(
    settings: Settings,
    database: ClickHouse,
    request: TrainingRequest,
    snapshot: Snapshot,
    files: Mapping[str, DigestFile],
    report: Progress,
) -> TrainingSet:
    """Write a training set, as it is read, to files by their suffixes (`suffixes_of`).

    Memory of this process: a batch of 2,048 executions, and a group of rows. Raises Refusal where nothing was shown,
    and for a feature that no row has; RangeTooLarge, Unavailable.
    """
    pass_ = TrainingPass(request, snapshot, writer_of(request, files), report, files)
    with export_errors(settings):
        async with database.stream(
            select_events(request),
            event_parameters(request, snapshot.parts),
            settings=_bounds(settings),
            timeout_s=settings.export_timeout_ms / 1000,
        ) as pieces:
            async for batch in record_batches(pieces):
                await asyncio.to_thread(pass_.add, batch)
    return await asyncio.to_thread(pass_.end)


class TrainingPass:
    """One pass over the events of a training set."""

    def __init__(
        self,
        request: TrainingRequest,
        snapshot: Snapshot,
        writer: TrainingWriter,
        report: Progress,
        files: Mapping[str, DigestFile],
    ) -> None:
        self._request = request
        self._snapshot_ms = to_epoch_ms(snapshot.created_at)
        self._writer = writer
        self._report = report
        self._files = files
        self._groups = RowGroups()
        self._counts = TrainingCounts()
        self._schema = pa.schema([])

    def add(self, batch: pa.RecordBatch) -> None:
        """Write the results of executions."""
        results = results_of(batch, self._request.horizon_ms)
        rows = training_rows(results, self._request)
        self._count(rows)
        self._write(self._groups.add(rows.table))

    def end(self) -> TrainingSet:
        """Write the end of the files."""
        if not self._counts.total.rows:
            if self._counts.unknown_propensity:
                raise Refusal("no result is at a position, and in a segment, whose propensity is known")
            raise self._request.scope.nothing_shown()
        if absent := [name for name, nulls in self._counts.nulls.items() if nulls == self._counts.total.rows]:
            raise Refusal(f"no result has a number at {absent[0]}: correct the feature, or leave it out")
        self._write(self._groups.end())
        self._writer.close()
        return TrainingSet(self._counts, [file.digest() for file in self._files.values()], self._schema)

    def _write(self, groups: Iterator[pa.Table]) -> None:
        for group in groups:
            self._schema = group.schema
            self._writer.write(group)
            self._report(self._counts.total.rows, sum(file.tell() for file in self._files.values()))

    def _count(self, rows: TrainingRows) -> None:
        results, before = rows.results, self._counts
        is_validation = results.began_ms >= self._request.validation_from_ms
        of_row, of_execution = is_validation[results.execution], is_validation[np.unique(results.execution)]
        is_positive = pc.greater(rows.table.column("label"), pa.scalar(0)).to_numpy()
        train, validation = (
            PartCounts(
                int((of_row == flag).sum()), int((of_execution == flag).sum()), int(is_positive[of_row == flag].sum())
            )
            for flag in (False, True)
        )
        self._counts = TrainingCounts(
            _sum(before.train, train),
            _sum(before.validation, validation),
            before.open_horizon + int((results.shown_ms + self._request.horizon_ms > self._snapshot_ms).sum()),
            before.unknown_propensity + rows.unknown,
            {name: before.nulls.get(name, 0) + rows.table.column(name).null_count for name in self._request.features},
        )


def _sum(a: PartCounts, b: PartCounts) -> PartCounts:
    return PartCounts(*(x + y for x, y in zip(a, b, strict=True)))


def _bounds(settings: Settings) -> dict[str, object]:
    limits = report_limits(settings)
    del limits["max_execution_time"]
    return {**limits, **STREAM_SETTINGS}


@contextmanager
def export_errors(settings: Settings) -> Iterator[None]:
    """Raise RangeTooLarge for a statement that exceeds its bounds."""
    with range_errors(settings, "the training set"):
        try:
            yield
        except StatementTimeout:
            raise RangeTooLarge(
                f"the training set takes longer than {settings.export_timeout_ms:,} ms: choose a shorter range, or "
                "raise TALLY_EXPORT_TIMEOUT_MS"
            ) from None
