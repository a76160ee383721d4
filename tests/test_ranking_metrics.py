"""Metrics of rankings equal ir-measures and cases by hand; run files are ordered as trec_eval orders them."""

from pathlib import Path

import ir_measures
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from learning.estimators.means import mean_of
from learning.estimators.ranking import METRIC_NAMES, RankedQuery, RankingMetric, parse_metric, score_queries
from learning.run_files import EvaluationFileError, read_qrels, read_run

documents = st.sampled_from([f"d{number}" for number in range(12)])
rankings = st.lists(documents, unique=True, max_size=12)
grades = st.dictionaries(documents, st.integers(0, 4), max_size=12)
queries = st.lists(st.builds(RankedQuery, rankings, grades), min_size=1, max_size=6)
ORDERED = {"map": ir_measures.AP, "ndcg": ir_measures.nDCG, "mrr": ir_measures.RR}
OF_SETS = {"precision": ir_measures.SetP, "recall": ir_measures.SetR, "f1": ir_measures.SetF}


def by_ir_measures(measure: ir_measures.Measure, query: RankedQuery, k: int | None = None) -> float:
    """Return a measure of one query; of its first k documents alone if k is given."""
    ranking = query.ranking[:k]
    run = {"q": {name: float(len(ranking) - place) for place, name in enumerate(ranking)}}
    (found,) = ir_measures.iter_calc([measure], {"q": dict(query.grades)}, run)
    return float(found.value)


@examples(max_examples=40)
@given(queries, st.none() | st.integers(1, 15))
def test_metrics_equal_ir_measures(found: list[RankedQuery], k: int | None) -> None:
    values = score_queries(found, [RankingMetric(name, k) for name in METRIC_NAMES])
    for number, query in enumerate(found):
        own: dict[str, float] = {name: values[RankingMetric(name, k)][number] for name in METRIC_NAMES}
        assert all(0 <= value <= 1 for value in own.values())
        for name, measure in ORDERED.items():
            cut = measure if k is None else measure @ k
            if query.grades and query.ranking:  # the provider of RR@k leaves out queries without either
                assert own[name] == pytest.approx(by_ir_measures(cut, query)), (name, cut)
        for name, measure in OF_SETS.items():
            assert own[name] == pytest.approx(by_ir_measures(measure, query, k)), name
    full = [query for query in found if k and len(query.ranking) >= k]
    if k and full:
        precision = score_queries(full, [RankingMetric("precision", k)])[RankingMetric("precision", k)]
        assert precision == pytest.approx([by_ir_measures(ir_measures.P @ k, query) for query in full])


def value(metric: str, ranking: list[str], **grades: int) -> float:
    parsed = parse_metric(metric)
    return score_queries([RankedQuery(ranking, grades)], [parsed])[parsed][0]


def test_metrics_by_hand() -> None:
    assert value("precision@4", ["a", "x", "b"], a=1, b=1, c=1, d=1) == pytest.approx(2 / 3), "of the 3 returned"
    assert value("recall@4", ["a", "x", "b"], a=1, b=1, c=1, d=1) == 0.5
    assert value("f1", ["a", "x"], a=1, b=1, c=1) == pytest.approx(2 / 5)
    assert value("f2", ["a", "x"], a=1, b=1, c=1) == pytest.approx(5 * (1 / 2) * (1 / 3) / (4 / 2 + 1 / 3))
    assert value("map@2", ["a", "x", "b"], a=1, b=1) == 0.5
    assert value("mrr@1", ["x", "a"], a=1) == 0.0
    assert value("mrr@1000000", ["x", "a"], a=1) == 0.5
    assert value("ndcg@1", ["a"], a=1, b=4) == 0.25
    assert value("precision", ["a", "a", "x"], a=1) == 0.5, "a repeated document counts once"
    for metric in METRIC_NAMES:
        assert value(metric, []) == value(metric, [], a=1) == value(metric, ["a"], a=0) == value(metric, ["a"]) == 0.0
        assert value(metric, ["\0", "\u202eא", "\ud800"], **{"\0": 1, "\u202eא": 1, "\ud800": 1}) == 1.0


@pytest.mark.parametrize(
    "text", ["", "dcg", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@1.5", "ndcg@1000001", "ndcg@\uff11", "@5"]
)
def test_an_unknown_metric_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"metric|number"):
        parse_metric(text)


def test_an_interval_of_a_mean_is_that_of_student() -> None:
    found = mean_of([0.0, 0.5, 1.0, 1.0])
    assert (found.mean, found.low, found.high) == pytest.approx((0.625, -0.13674, 1.38674), abs=1e-5)
    assert mean_of([0.25])[1:] == (0.25, None, None, None)
    assert mean_of([0.1] * 3)[1:] == (0.1, 0.1, 0.1, 0.0)
    assert mean_of([0.1, 0.2, 0.3]) == mean_of([0.3, 0.1, 0.2])
    with pytest.raises(ValueError, match="at least one"):
        mean_of([])


def test_equal_scores_are_ordered_as_trec_eval_orders_them(tmp_path: Path) -> None:
    run, qrels = tmp_path / "a.run", tmp_path / "a.qrels"
    run.write_text("q Q0 a 9 1.5 t\nq Q0 b 1 1.5 t\r\n\nq Q0 z 2 -3 t\nq Q0 é 3 1.5e0 t\n", encoding="utf-8-sig")
    assert read_run(run) == {"q": ["é", "b", "a", "z"]}
    qrels.write_text("q 0 a 2\nq 0 x 0\nq2 0 y -1\n")
    assert read_qrels(qrels).grades == {"q": {"a": 2, "x": 0}, "q2": {"y": -1}}
    scores = dict.fromkeys("ab", 1.5) | {"z": -3.0}
    (found,) = ir_measures.iter_calc([ir_measures.RR], {"q": {"a": 2}}, {"q": scores})
    assert value("mrr", ["b", "a", "z"], a=2) == found.value == 0.5


def test_json_has_lists_scores_and_datasets(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"q1": ["a", "b c"], "q2": {"x": 1, "y": 2.5}}')
    assert read_run(file) == {"q1": ["a", "b c"], "q2": ["y", "x"]}
    file.write_text('{"q1": ["a"], "q2": {"x": 0, "y": 4}}')
    assert read_qrels(file).grades == {"q1": {"a": 1}, "q2": {"x": 0, "y": 4}}
    query = '{"query_id": "q1", "query_input": {}, "relevant_documents": ["a", "b"], "relevance_scores": {"a": 3}}'
    file.write_text(f'{{"dataset_name": "n", "queries": [{query}]}}')
    assert read_qrels(file).grades == {"q1": {"a": 3, "b": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"q Q0 a 1 0.5", "line 1: 6 columns are needed (query, Q0, document, rank, score, tag), and it has 5"),
        (b"q Q0 a 1 high t", "line 1: the score 'high' is not a number"),
        (b"q Q0 a 1 nan t", "is not a number"),
        (b"q Q0 a 1 2 t\nq Q0 a 2 1 t", ":2: document 'a' is twice in query 'q'"),
        (b"", "has no queries"),
        (b"{}", "has no queries"),
        (b"{", "is not JSON"),
        (b'{"q": [' * 100_000, "is not JSON"),
        (b'{"q": "a"}', "write a list of documents"),
        (b'{"q": ["a", "a"]}', "document 'a' is twice"),
        (b'{"q": [], "q": []}', "the key 'q' is twice"),
        (b'{"q": {"a": true}}', "is not a number"),
        (b"\xff", "no UTF-8 at byte 0"),
    ],
)
def test_an_unusable_run_names_file_and_place(tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "a.run"
    file.write_bytes(text)
    with pytest.raises(EvaluationFileError) as raised:
        read_run(file)
    assert says in str(raised.value)
    assert str(file) in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    ["q 0 a", "q 0 a 1.5", "q 0 a 1\nq 0 a 1", '{"q": {"a": 1.5}}', '{"queries": [{}]}', '{"q": {"a": 1000000}}'],
)
def test_unusable_judgments_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.qrels"
    file.write_text(text)
    with pytest.raises(EvaluationFileError):
        read_qrels(file)
    file.write_text("q 0 a 1\nq a 1\n")
    with pytest.raises(
        EvaluationFileError, match=r"line 2: 4 columns are needed \(query, iteration, document, grade\)"
    ):
        read_qrels(file)
    with pytest.raises(EvaluationFileError, match="No such file"):
        read_qrels(tmp_path / "nothing")
