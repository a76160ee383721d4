"""Formats of judgments: other programs read them, and every text survives."""

import io
import json
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixpeek.models.create_dataset_request import CreateDatasetRequest
from pyarrow import parquet as parquet_files

from learning.estimators.judging import JudgedCells
from learning.judgment_counts import ItemCounts
from learning.judgment_formats import (
    dataset_name,
    evaluation_dataset,
    json_lines,
    parquet,
    query_lines,
    trec_document,
    trec_qrels,
)
from learning.judgments import JudgmentMethod, JudgmentRequest, Judgments, judgments_of
from learning.scope import LearningScope, Refusal, ScopeError
from tests.judgments_lab import SINCE, UNTIL

Items = dict[tuple[str, str], tuple[int, int]]
"""Impressions and clicks by query and document."""
SHOES: Items = {
    ("hat", "h+1"): (8, 2),
    ("hat", "h%2"): (8, 0),
    ("shoes", "a"): (10, 10),
    ("shoes", "b"): (10, 4),
    ("zebra", "z"): (5, 0),
}
PATH = ("deep", "text")


def judged(items: Items, method: JudgmentMethod = "coec", path: tuple[str, ...] = PATH) -> Judgments:
    pairs = sorted(items)
    queries = sorted({query for query, _ in pairs})
    numbers, zeros = np.arange(len(pairs)), np.zeros(len(pairs), np.int64)
    shown, clicked = (np.array([items[pair][column] for pair in pairs], np.int64) for column in (0, 1))
    counts = ItemCounts(
        queries,
        [document for _, document in pairs],
        np.array([queries.index(query) for query, _ in pairs], np.int64),
        np.minimum(clicked, 5).astype(np.float64),
        [""],
        JudgedCells(numbers, zeros, zeros, shown, clicked, len(pairs)),
        0,
    )
    scope = LearningScope("default", "hybrid", SINCE, UNTIL, (), path)
    return judgments_of(scope, JudgmentRequest(method), counts)


def qrels_of(found: Judgments) -> list[Any]:
    """Return the qrels as ir-measures reads them."""
    return list(ir_measures.read_trec_qrels(b"".join(trec_qrels(found)).decode()))  # type: ignore[no-untyped-call]


def queries_of(found: Judgments) -> dict[str, str]:
    """Return the texts of the queries by id, as a reader of the file of queries finds them."""
    pairs = (line.split("\t") for line in b"".join(query_lines(found)).decode().removesuffix("\n").split("\n"))
    escapes = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\"}
    found_texts = {}
    for name, text in pairs:
        parts = iter(text)
        found_texts[name] = "".join(escapes[next(parts)] if each == "\\" else each for each in parts)
    return found_texts


def test_qrels_have_grades_and_ids_of_queries() -> None:
    found = judged(SHOES)
    assert b"".join(trec_qrels(found)).decode().splitlines() == [
        *("q1 0 h+1 4", "q1 0 h%2 0", "q2 0 a 4", "q2 0 b 2", "q3 0 z 0")
    ]
    assert queries_of(found) == {"q1": "hat", "q2": "shoes", "q3": "zebra"}
    run = [ir_measures.ScoredDoc("q2", "a", 1.0), ir_measures.ScoredDoc("q2", "b", 2.0)]
    (measured,) = ir_measures.calc_aggregate([ir_measures.RR(rel=3)], qrels_of(found), run).values()
    assert measured == pytest.approx(0.5 / 3)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
many_items = st.dictionaries(
    st.tuples(texts, texts), st.integers(1, 9).flatmap(lambda shown: st.tuples(st.just(shown), st.integers(0, shown)))
)


@given(items=many_items.filter(lambda items: any(clicks for _, clicks in items.values())))
@settings(max_examples=60)
def test_every_format_has_every_text(items: Items) -> None:
    found = judged(items)
    rows = list(found.rows())
    assert {(row.query, row.document) for row in rows} == set(items)
    assert [json.loads(line) for line in b"".join(json_lines(found)).split(b"\n")[:-1]] == [r._asdict() for r in rows]
    data = b"".join(parquet(found))
    assert parquet_files.read_table(io.BytesIO(data)).to_pylist() == [row._asdict() for row in rows]
    assert b"".join(parquet(found)) == data


fields = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=8)


@given(documents=st.lists(fields, min_size=1, max_size=5, unique=True))
@settings(max_examples=60)
def test_qrels_have_every_query_and_document_unchanged(documents: list[str]) -> None:
    found = judged({(query, document): (2, 1) for query in ("a\tb\\", "x") for document in documents})
    queries = queries_of(found)
    read = [(queries[each.query_id], each.doc_id, each.relevance) for each in qrels_of(found)]
    assert read == [(row.query, row.document, row.grade) for row in found.rows()]


@pytest.mark.parametrize("document", ["plain-1", "ünïcode", "日本", "a/b:c?d=e", "100%25", "%", "zero\u200bwidth"])
def test_documents_without_white_space_are_unchanged(document: str) -> None:
    assert trec_document(document) == document


@pytest.mark.parametrize("document", ["", "h 1", "a\tb", "a\x00", "a\u2028", "a\xa0b"])
def test_documents_that_qrels_cannot_hold_are_refused(document: str) -> None:
    with pytest.raises(Refusal, match="which qrels cannot hold"):
        trec_document(document)


def test_a_dataset_is_the_body_of_the_published_call() -> None:
    found = judged(SHOES)
    body = evaluation_dataset(found, dataset_name(found, None))
    request = CreateDatasetRequest.from_json(json.dumps(body))
    assert request is not None
    assert request.to_dict() == body
    assert body["dataset_name"] == "hybrid coec"
    assert body["queries"] == [
        {
            "query_id": "q1",
            "query_input": {"deep": {"text": "hat"}},
            "relevant_documents": ["h+1"],
            "relevance_scores": {"h+1": 5, "h%2": 0},
        },
        {
            "query_id": "q2",
            "query_input": {"deep": {"text": "shoes"}},
            "relevant_documents": ["a", "b"],
            "relevance_scores": {"a": 5, "b": 2},
        },
    ]
    assert body["metadata"]["method"] == "coec"
    graded = evaluation_dataset(judged(SHOES, "graded", ("text",)), "x")
    assert graded["queries"][0]["query_input"] == {"text": "hat"}
    assert graded["queries"][1]["relevance_scores"] == {"a": 4, "b": 4}


def test_a_dataset_without_relevant_documents_is_refused() -> None:
    with pytest.raises(Refusal, match="no query has a document with a score above 0"):
        evaluation_dataset(judged({("q", "a"): (3, 0)}, "graded"), "x")


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_the_length_of_a_datasets_name_is_bounded(name: str) -> None:
    with pytest.raises(ScopeError, match="from 1 to 200 characters"):
        dataset_name(judged(SHOES), name)
