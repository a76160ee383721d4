"""Training sets of tests: events as rows of `interactions`, and exports in memory."""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from learning.scope import LearningScope
from learning.training import Snapshot, TrainingSet, take_snapshot, write_training
from learning.training_formats import DigestFile, suffixes_of
from learning.training_request import TrainingFormat, TrainingLabel, TrainingRequest
from runtime.clickhouse import ClickHouse
from schemas.interaction import Interaction
from tests.analytics.loading import load
from tests.lab import Lab

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
END = BEGIN + timedelta(days=10)
RETRIEVER = "hybrid"


def event(
    document: str,
    kind: str | Sequence[str] = "impression",
    at_s: float = 0,
    execution: str | None = "e1",
    **fields: Any,
) -> Interaction:
    """An event at a time in seconds after BEGIN."""
    return Interaction(
        **{
            "feature_id": document,
            "interaction_type": [kind] if isinstance(kind, str) else list(kind),
            "execution_id": execution,
            "position": 0,
            "retriever_id": RETRIEVER,
            "document_score": 0.5,
            "query_snapshot": {"text": "Running  Shoes"},
            "occurred_at": BEGIN + timedelta(seconds=at_s),
            **fields,
        }
    )


async def store(database: ClickHouse, events: Iterable[Interaction], *, first: int = 0) -> None:
    """Insert events with ids in this order."""
    await load(database, "default", list(events), first=first)


async def store_numbered(database: ClickHouse, events: Iterable[tuple[int, Interaction]]) -> None:
    """Insert events with these numbers in their ids, each run of numbers at once."""
    runs = itertools.groupby(enumerate(events), key=lambda pair: pair[1][0] - pair[0])
    for _, run in runs:
        numbered = [pair for _, pair in run]
        await store(database, [each for _, each in numbered], first=numbered[0][0])


def request_for(
    label: TrainingLabel = "click",
    features: Sequence[str] = ("document_score",),
    output: TrainingFormat = "parquet",
    *,
    validation_from: datetime = END,
    since: datetime = BEGIN,
    until: datetime = END,
    by: tuple[str, ...] = (),
    **others: Any,
) -> TrainingRequest:
    """A request for the results of RETRIEVER from BEGIN to END, without a validation set unless it is given."""
    scope = LearningScope("default", RETRIEVER, since, until, by)
    return TrainingRequest(scope, label, tuple(features), output, validation_from, **others).checked()


async def made(
    lab: Lab, request: TrainingRequest, snapshot: Snapshot | None = None
) -> tuple[Mapping[str, bytes], TrainingSet]:
    """The files of a training set, by suffix."""
    buffers = {suffix: io.BytesIO() for suffix in suffixes_of(request)}
    files = {suffix: DigestFile(suffix, buffer) for suffix, buffer in buffers.items()}
    snapshot = snapshot or await take_snapshot(lab.settings, lab.database, request)
    written = await write_training(lab.settings, lab.database, request, snapshot, files, lambda _rows, _bytes: None)
    return {suffix: buffer.getvalue() for suffix, buffer in buffers.items()}, written


async def table_of(lab: Lab, request: TrainingRequest) -> pa.Table:
    """The rows of a training set in Parquet."""
    files, _ = await made(lab, request)
    return parquet.read_table(io.BytesIO(files[""]))


async def columns_of(lab: Lab, request: TrainingRequest, *names: str) -> list[tuple[Any, ...]]:
    """The rows of a training set with these columns alone."""
    return [tuple(row[name] for name in names) for row in (await table_of(lab, request)).to_pylist()]
