"""Ranking models learned from exports: a slice of `python -m tests.learning.ranking`, and its measure."""

from pathlib import Path

import numpy as np
import pytest

from learning.estimators.curve import DEFAULT_METHOD
from learning.propensities import estimate
from tests.lab import Lab
from tests.learning.held_out import FEATURES, by_document_score, held_out, logged_scores, ndcg, scores_of
from tests.learning.logs import scope_of
from tests.learning.ranking_models import exported, store_log, trained

EXECUTIONS, RETRIEVER = 3_000, "keyword"


def test_ndcg_has_gain_by_power_of_two() -> None:
    gained = 7 + 3 / np.log2(3) + 7 / 2 + 1 / np.log2(6) + 3 / np.log2(7)
    ideal = 7 + 7 / np.log2(3) + 3 / 2 + 3 / np.log2(5) + 1 / np.log2(6)
    assert ndcg(np.array([3, 2, 3, 0, 1, 2])) == pytest.approx(gained / ideal)
    assert ndcg(np.array([0] * 10 + [4, 4])) == 0


def test_logged_orderings_show_the_same_documents() -> None:
    queries = held_out(RETRIEVER)
    assert len(queries) > 30
    for query in queries:
        assert query.features.shape == (len(query.grades), len(FEATURES))
        assert (np.sort(query.logged) == np.arange(len(query.grades))).all()


async def test_a_model_learned_from_an_export_is_better_than_the_logged_ranking(lab: Lab, tmp_path: Path) -> None:
    """LightGBM reads the Parquet as it is, and ranks queries that the log does not have."""
    await store_log(lab.database, "default", 1, EXECUTIONS, [RETRIEVER])
    scope = scope_of(RETRIEVER, "device")
    curves = await estimate(lab.settings, lab.database, scope, DEFAULT_METHOD, replicates=20)
    logged = max(logged_scores(RETRIEVER).mean(), scores_of(RETRIEVER, by_document_score).mean())
    for label in ("click", "ips"):
        rows, counts = await exported(lab.settings, lab.database, scope, label, curves, tmp_path / f"{label}.parquet")
        assert rows.num_rows == counts.total.rows
        assert scores_of(RETRIEVER, trained(rows).predict).mean() > logged + 0.05
