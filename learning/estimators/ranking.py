"""Quality of a ranking against the relevant documents of its query, by ir-measures.

`precision`, `recall`, `f1` and `f2` treat the first k documents as a set, as the published service does. `map`, `ndcg`
and `mrr` depend on their order.

precision  relevant documents among the first k, divided by the documents there (k, or fewer if fewer were returned;
           trec_eval's P@k divides by k always). Cleverdon, Mills and Keen, 1966.
recall     relevant documents among the first k, divided by all relevant documents. The same source.
f1, f2     (1 + b^2) P R / (b^2 P + R) with b = 1 and 2. Van Rijsbergen, Information Retrieval, 1979.
map        mean over all relevant documents of the precision at their position; 0 for one that is not among the first
           k. Buckley and Voorhees, Evaluating Evaluation Measure Stability, 2000.
ndcg       sum of grade / log2(position + 2) over the first k, divided by that of the ideal order. Jarvelin and
           Kekalainen, Cumulated Gain-Based Evaluation of IR Techniques, 2002, with linear gains as in trec_eval.
mrr        1 / (position + 1) of the first relevant document; 0 if none is among the first k. Voorhees, The TREC-8
           Question Answering Track Report, 1999.

All are from 0 to 1, with 0-based positions. They lie where relevant documents are not known to be relevant: a document
without a grade counts as not relevant. A query without relevant documents scores 0 in every metric.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import ir_measures

MetricName = Literal["precision", "recall", "f1", "f2", "map", "ndcg", "mrr"]
METRIC_NAMES: tuple[MetricName, ...] = get_args(MetricName)
MAX_DEPTH = 1_000_000
"""Largest k. Rankings are shorter."""

_BETAS = {"f1": 1.0, "f2": 2.0}
_OF_SETS = ("precision", "recall", *_BETAS)


class RankingMetric(NamedTuple):
    """Metric of a ranking over the first `k` documents; None: over all of them."""

    name: MetricName
    k: int | None = None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


class RankedQuery(NamedTuple):
    """Ranking of one query, and the grades of its documents."""

    ranking: Sequence[str]
    """Documents, best first. A repeated document counts at its first position."""
    grades: Mapping[str, int]
    """Relevance by document, 1 or more for a relevant one."""


def parse_metric(text: str, k: int | None = None) -> RankingMetric:
    """Parse a metric: `ndcg@10`, or `ndcg`, which takes the given `k`. Raises ValueError."""
    name, at, depth = text.strip().partition("@")
    if name not in METRIC_NAMES:
        raise ValueError(f"{text[:40]!r} is not a metric; known are {', '.join(METRIC_NAMES)}, also as ndcg@10")
    if not at:
        return RankingMetric(name, k)
    if not (depth.isascii() and depth.isdigit() and len(depth) <= len(str(MAX_DEPTH)) and 1 <= int(depth) <= MAX_DEPTH):
        raise ValueError(f"{text[:40]!r}: the number after @ must be from 1 to {MAX_DEPTH:,}")
    return RankingMetric(name, int(depth))


def score_queries(queries: Sequence[RankedQuery], metrics: Sequence[RankingMetric]) -> dict[RankingMetric, list[float]]:
    """Return the values of each metric, one for each query in order. See the module for the formulas."""
    by_depth: dict[int | None, list[RankingMetric]] = {}
    for metric in metrics:
        by_depth.setdefault(metric.k, []).append(metric)
    found: dict[RankingMetric, list[float]] = {}
    for k, some in by_depth.items():
        found |= _at_depth(queries, some, k)
    return {metric: found[metric] for metric in metrics}


def _at_depth(
    queries: Sequence[RankedQuery], metrics: Sequence[RankingMetric], k: int | None
) -> dict[RankingMetric, list[float]]:
    """Return the values of metrics with one depth. Rankings are truncated to it first."""
    judgments: dict[str, dict[str, int]] = {}
    rankings: dict[str, dict[str, float]] = {}
    for number, query in enumerate(queries):
        first = list(dict.fromkeys(query.ranking))[:k]
        names = {document: str(index) for index, document in enumerate({**dict.fromkeys(first), **query.grades})}
        judgments[str(number)] = {names[document]: grade for document, grade in query.grades.items()}
        rankings[str(number)] = {names[document]: float(-place) for place, document in enumerate(first)}
    wanted = _measures([metric.name for metric in metrics], k)
    values = {name: [0.0] * len(queries) for name in wanted}
    if queries:
        for each in ir_measures.iter_calc(list(wanted.values()), judgments, rankings):
            name = next(name for name, measure in wanted.items() if measure == each.measure)
            values[name][int(each.query_id)] = float(each.value)
    return {metric: _values(metric.name, values) for metric in metrics}


def _measures(names: Sequence[MetricName], k: int | None) -> dict[str, ir_measures.Measure]:
    """Return the measures of ir-measures that metrics need. nDCG alone needs its depth: its ideal order is cut too."""
    needed: dict[str, ir_measures.Measure] = {}
    for name in names:
        if name in _OF_SETS:
            needed |= {"precision": ir_measures.SetP, "recall": ir_measures.SetR}
        elif name == "ndcg":
            needed[name] = ir_measures.nDCG if k is None else ir_measures.nDCG @ k
        else:
            needed[name] = ir_measures.AP if name == "map" else ir_measures.RR
    return needed


def _values(name: MetricName, values: Mapping[str, list[float]]) -> list[float]:
    if name not in _BETAS:
        return values[name]
    square = _BETAS[name] ** 2
    return [
        (1 + square) * precision * recall / (square * precision + recall) if precision and recall else 0.0
        for precision, recall in zip(values["precision"], values["recall"], strict=True)
    ]
