"""Queries named by text in one file and by id in the other, and judged queries that a run lacks."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.judgment_formats import query_line
from learning.query_names import compared_queries, dataset_query_names, named_by_id, read_query_names
from learning.run_files import EvaluationFileError, Rankings
from learning.target_policy import normalized_query

A, B = Path("a.run"), Path("b.run")
JUDGMENTS = {f"q{number}": {"a": 1} for number in range(8)}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5, unique_by=normalized_query))
def test_written_texts_are_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = tmp_path_factory.mktemp("names") / "queries.tsv"
    lines = [query_line(f"q{number}", text) for number, text in enumerate(texts)]
    file.write_bytes("".join(lines).encode())
    assert read_query_names(file) == {normalized_query(text): f"q{number}" for number, text in enumerate(texts)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no queries"),
        ("q1 shoes\n", "line 1: 2 columns are needed"),
        ("q1\tshoes\nq2\ta\tb\n", "line 2: 2 columns are needed"),
        ("q1\ta\\b\n", "line 1: write a backslash as two of them"),
        ("q1\tShoes\nq2\tshoes \n", "'q1' and 'q2' have the same text"),
    ],
)
def test_an_unusable_file_of_queries_names_the_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "queries.tsv").write_text(text)
    with pytest.raises(EvaluationFileError, match=says):
        read_query_names(tmp_path / "queries.tsv")


def test_texts_become_ids_and_ids_remain() -> None:
    names = {"red shoes": "q1", "q1": "q2"}
    assert named_by_id(A, {" Red  SHOES": ["a"], "q1": ["b"], "hats": ["c"]}, names) == {
        **{"q1": ["a"], "q2": ["b"], "hats": ["c"]}
    }
    by_id = {"q1": ["a"], "q2": ["b"]}
    assert named_by_id(A, by_id, names) == by_id, "not the query with the text q1"
    with pytest.raises(EvaluationFileError, match="'Red shoes' and 'red shoes' are the same query, 'q1'"):
        named_by_id(A, {"Red shoes": ["a"], "red shoes": ["b"]}, names)


def test_inputs_of_a_dataset_name_its_queries() -> None:
    inputs = {"q_1": {"inputs": {"text": "Red  Shoes"}}, "q_2": {"text": "a", "image": "b"}, "q_3": None}
    assert dataset_query_names(A, inputs) == {"red shoes": "q_1"}


def test_missing_queries_are_named_count_as_zero_or_are_skipped() -> None:
    first: Rankings = {"q0": ["a"], "q1": ["x"], "other": ["a"]}
    with pytest.raises(EvaluationFileError) as raised:
        compared_queries([(A, first)], JUDGMENTS, "refuse")
    assert "a.run has no ranking of 6 of 8 judged queries: q2, q3, q4, q5, q6 and 1 more" in str(raised.value)
    zero = compared_queries([(A, first)], JUDGMENTS, "zero")
    assert [query.ranking for query in zero.rankings[0]] == [["a"], ["x"], *[()] * 6]
    assert (len(zero.ids), zero.left_out) == (8, 0)
    skip = compared_queries([(A, first), (B, {"q1": ["b"], "q2": ["c"]})], JUDGMENTS, "skip")
    assert (skip.ids, skip.left_out) == (["q1"], 7), "those of every run, so that differences are paired"
    assert [[query.ranking for query in each] for each in skip.rankings] == [[["x"]], [["b"]]]
    with pytest.raises(EvaluationFileError, match="no judged query is in every run"):
        compared_queries([(A, {"q0": ["a"]}), (B, {"q1": ["a"]})], JUDGMENTS, "skip")


@pytest.mark.parametrize("missing", ["refuse", "zero", "skip"])
def test_a_run_without_judged_queries_asks_for_the_names(missing: str) -> None:
    with pytest.raises(EvaluationFileError) as raised:
        compared_queries([(A, {"shoes": ["a"]})], JUDGMENTS, missing)  # type: ignore[arg-type]
    assert "a.run has none of the 8 judged queries: it has 'shoes', the judgments have 'q0'" in str(raised.value)
    assert "by text and the other by id? Then give --queries" in str(raised.value)
    assert "--missing" not in str(raised.value)
