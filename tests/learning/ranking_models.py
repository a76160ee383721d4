"""Ranking models of simulated logs: events into ClickHouse, training sets out of it, LightGBM on their files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from learning.estimators.curve import DEFAULT_METHOD, PropensityCurve
from learning.propensities import estimate
from learning.scope import LearningScope
from learning.training import TrainingCounts
from learning.training_request import TrainingLabel, TrainingRequest
from producers.simulation.simulator import Simulator
from runtime.clickhouse import ClickHouse
from runtime.settings import Settings
from schemas.interaction import Interaction
from tally.training import export_training
from tests.analytics.loading import load
from tests.learning.held_out import (
    FEATURES,
    Floats,
    Integers,
    by_document_score,
    is_held_out,
    logged_scores,
    scores_of,
    true_grades,
)
from tests.learning.logs import scope_of

LABELS: tuple[TrainingLabel, ...] = ("click", "graded", "ips")
MIN_DATA_IN_LEAF, LEAVES_OF_DATA = 1_000, 50
"""Rows of a leaf, or rows of the training set / LEAVES_OF_DATA if that is less."""
ROUNDS = 100
PARAMETERS = {
    "objective": "lambdarank",
    "num_leaves": 6,
    "lambda_l2": 1.0,
    "learning_rate": 0.05,
    "lambdarank_truncation_level": 12,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbose": -1,
}
"""Parameters of every model, chosen before any score was known."""


class LogCounts(NamedTuple):
    """Counts of a retriever's training set."""

    rows: int
    executions: int
    clicks: int
    """Clicked rows."""
    unknown_propensity: int
    """Rows at a position whose propensity the log does not determine."""


class RankingScores(NamedTuple):
    """True nDCG of each held-out query, by name of the ranking, and the training set of the models."""

    counts: LogCounts
    scores: dict[str, Floats]


def training_events(seed: int, executions: int, retrievers: Sequence[str]) -> Iterator[Interaction]:
    """Yield the events of these retrievers for training queries, from a number of simulated executions of all."""
    seen = set[str]()
    for event in Simulator(seed, duplicates=0):
        if event.execution_id is not None:
            seen.add(event.execution_id)
        if len(seen) > executions:
            return
        if event.retriever_id in retrievers and event.query_snapshot and not is_held_out(event.query_snapshot["text"]):
            yield event


async def store_log(
    database: ClickHouse, namespace: str, seed: int, executions: int, retrievers: Sequence[str]
) -> None:
    """Store the events of training queries. Events of held-out queries are nowhere, so nothing is learned from them."""
    await load(database, namespace, training_events(seed, executions, retrievers))


async def scores_of_models(
    settings: Settings, database: ClickHouse, namespace: str, retriever: str, folder: Path
) -> RankingScores:
    """Estimate propensities, export a training set for each label, train the models, and score all rankings."""
    scope = scope_of(retriever, "device", namespace=namespace)
    curves = await estimate(settings, database, scope, DEFAULT_METHOD)
    sets = dict[str, pa.Table]()
    for label in LABELS:
        file = folder / f"{namespace}-{retriever}-{label}.parquet"
        sets[label], counts = await exported(settings, database, scope, label, curves, file)
    clicked = sets["click"]
    models = {
        **{label: trained(rows) for label, rows in sets.items()},
        "position=": trained(clicked, with_position=True),
        "true grades": trained(clicked, label=grades_of(clicked)),
    }
    return RankingScores(
        LogCounts(counts.total.rows, counts.total.executions, counts.total.positives, counts.unknown_propensity),
        {
            "logged": logged_scores(retriever),
            "document_score": scores_of(retriever, by_document_score),
            **{name: scores_of(retriever, model.predict) for name, model in models.items()},
        },
    )


async def exported(
    settings: Settings,
    database: ClickHouse,
    scope: LearningScope,
    label: TrainingLabel,
    curves: Sequence[PropensityCurve],
    file: Path,
) -> tuple[pa.Table, TrainingCounts]:
    """Export a training set as Parquet, all of it for training, and read it."""
    request = TrainingRequest(scope, label, FEATURES, "parquet", scope.until, curves=curves).checked()
    export = await export_training(settings, database, request, file, lambda _rows, _bytes: None, force=False)
    return parquet.read_table(file), export.manifest.counts


def trained(rows: pa.Table, *, label: Integers | None = None, with_position: bool = False) -> Any:
    """Train LightGBM on a training set with its labels, or other ones; `with_position`: with LightGBM's debiasing."""
    rows = rows.append_column("target", rows["label"] if label is None else pa.array(label))
    qid = rows["qid"].to_numpy()
    starts = np.flatnonzero(np.append(True, qid[1:] != qid[:-1]))
    data = lightgbm.Dataset(
        rows.select(FEATURES),
        label=rows["target"],
        weight=rows["weight"],
        group=np.diff(np.append(starts, len(qid))),
        position=rows["position"].to_numpy() if with_position else None,
        params={"verbose": -1},
    )
    least = min(MIN_DATA_IN_LEAF, rows.num_rows // LEAVES_OF_DATA)
    return lightgbm.train({**PARAMETERS, "min_data_in_leaf": least}, data, num_boost_round=ROUNDS)


def grades_of(rows: pa.Table) -> Integers:
    """Return the true grade of each row."""
    grades = true_grades()
    pairs = zip(rows["query"].to_pylist(), rows["document"].to_pylist(), strict=True)
    return np.array([grades[str(query)].get(str(document), 0) for query, document in pairs])
