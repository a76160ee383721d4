"""`tally evaluate`: scores of rankings, and the ship gate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from tally.cli import datasets
from tally.cli.options import AsJson, answer_json, needs
from tally.cli.output import out, say, table

if TYPE_CHECKING:
    from learning.estimators.gate import GateMetric, GateResult
    from learning.estimators.ranking import RankingMetric
    from learning.query_names import ComparedQueries, MissingQueries
    from learning.scoring import ScoreResponse

NOT_PASSED = 1

Qrels = Annotated[Path, typer.Option(help="Judgments: TREC qrels, JSON, or a dataset's JSON.")]
Missing = Annotated[
    str,
    typer.Option(
        help="Judged queries that a run lacks: refuse them, count them as zero, or skip them in all runs.",
        metavar="refuse|zero|skip",
    ),
]
Queries = Annotated[
    Path | None,
    typer.Option(help="File of `tally learn judgments --queries`, for runs that name queries by text. Default: none."),
]

app = typer.Typer(help="Evaluate rankings and policies.", no_args_is_help=True)
app.add_typer(datasets.app, name="dataset")


@app.command()
@needs("learning")
def score(
    run: Annotated[Path, typer.Option(help="Rankings: a TREC run, or JSON.")],
    qrels: Qrels,
    metrics: Annotated[
        str, typer.Option(help="Metrics: precision, recall, f1, f2, map, ndcg, mrr; ndcg@5 has its own depth.")
    ] = "precision,recall,map,ndcg,mrr",
    k: Annotated[int, typer.Option(help="Documents of each ranking that count.", min=1, max=1_000_000)] = 10,
    missing: Missing = "refuse",
    queries: Queries = None,
    as_json: AsJson = False,
) -> None:
    """Score rankings against judgments: the mean of each metric over the queries, with its 95 % interval.

    Examples:
        tally evaluate score --run hybrid.run --qrels judgments.qrels --metrics ndcg,mrr,recall@50 --k 10
        tally evaluate score --run by_text.json --qrels judgments.qrels --queries queries.tsv
    """
    from learning.scoring import scored

    named = _metrics(metrics, "--metrics", k)
    chosen = _compared(qrels, [run], missing, queries)
    found = scored(chosen.rankings[0], named, k)
    if as_json:
        items = [{"query_id": name, **item} for name, item in zip(chosen.ids, found.per_item, strict=True)]
        answer_json({**found.model_dump(), "per_item": items})
    else:
        _print_scores(found, k)
    _say_left_out(chosen)


@app.command()
@needs("learning")
def gate(
    baseline: Annotated[Path, typer.Option(help="Rankings in use: a TREC run, or JSON.")],
    candidate: Annotated[Path, typer.Option(help="Rankings that may replace them.")],
    qrels: Qrels,
    primary: Annotated[str, typer.Option(help="Metric that must rise.")] = "ndcg@10",
    guards: Annotated[str, typer.Option(help="Metrics that must not fall, separated by commas.")] = "",
    tolerance: Annotated[
        float, typer.Option(help="Drop of a guard that is accepted, in its units.", min=0.0, max=1.0)
    ] = 0.01,
    missing: Missing = "refuse",
    queries: Queries = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a candidate may replace the baseline: exit 0 if it passed, 1 if not, 2 for unusable input.

    It passes if the 95 % interval of the primary metric's difference is above 0, and that of each guard above
    -tolerance. Too few queries to say do not pass.

    Examples:
        tally evaluate gate --baseline a.run --candidate b.run --qrels judgments.qrels \\
            --guards map,mrr,recall@20
    """
    from learning.scoring import GateResponse, compared

    named = _metrics(primary, "--primary", None)
    if len(named) != 1:
        raise typer.BadParameter("is one metric", param_hint="--primary")
    named |= _metrics(guards, "--guards", None)
    chosen = _compared(qrels, [baseline, candidate], missing, queries)
    before, after = chosen.rankings
    found = compared(before, after, named, tolerance)
    if as_json:
        answer_json(GateResponse.of(found).model_dump())
    else:
        _print_gate(found)
    _say_left_out(chosen)
    if not found.passed:
        raise typer.Exit(NOT_PASSED)


def _metrics(text: str, option: str, k: int | None) -> "dict[str, RankingMetric]":
    from learning.estimators.ranking import parse_metric

    try:
        found = [parse_metric(each, k) for each in text.split(",") if each.strip()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
    if not found and option != "--guards":
        raise typer.BadParameter("names no metric", param_hint=option)
    return {str(metric): metric for metric in found}


def _compared(qrels: Path, runs: Sequence[Path], missing: str, queries: Path | None) -> "ComparedQueries":
    """Read the files of a comparison. Raises EvaluationFileError and BadParameter."""
    from learning.query_names import compared_queries, dataset_query_names, named_by_id, read_query_names
    from learning.run_files import read_qrels, read_run

    chosen = _missing(missing)
    judged = read_qrels(qrels)
    names = read_query_names(queries) if queries else {}
    found = [(path, read_run(path)) for path in runs]
    named = []
    for path, run in found:
        own = names
        if queries is None and not any(query in judged.grades for query in run):
            own = dataset_query_names(qrels, judged.inputs)
        named.append((path, named_by_id(path, run, own)))
    return compared_queries(named, judged.grades, chosen)


def _missing(text: str) -> "MissingQueries":
    if text not in ("refuse", "zero", "skip"):
        raise typer.BadParameter(f"{text[:40]!r} is not one of refuse, zero, skip", param_hint="--missing")
    return cast("MissingQueries", text)


def _say_left_out(found: "ComparedQueries") -> None:
    if found.left_out:
        judged = found.left_out + len(found.ids)
        say(f"left out, since a run lacks them: {found.left_out:,} of {judged:,} judged queries")


def _print_scores(found: "ScoreResponse", k: int) -> None:
    queries = f"{found.count:,} queries"
    shown = table("metric", "mean", "95 % interval", title=f"Scores of {queries}, k = {k}", right=True)
    for name in found.metrics:
        interval = found.intervals[name]
        shown.add_row(name, f"{found.aggregate[name]:.4f}", _interval(interval.low, interval.high))
    out.print(shown)
    if found.items_without_relevant:
        say(f"{found.items_without_relevant:,} of {queries} have no relevant document, and score 0")


def _print_gate(found: "GateResult") -> None:
    shown = table(
        *("metric", "baseline", "candidate", "difference", "95 % interval", "verdict"),
        caption=f"{found.queries:,} queries; tolerance of guards {found.tolerance:g}",
        right={1, 2, 3, 4},
    )
    for name, metric in found.metrics.items():
        difference = metric.difference
        shown.add_row(
            name,
            f"{metric.baseline:.4f}",
            f"{metric.candidate:.4f}",
            f"{difference.mean:+.4f}",
            _interval(difference.low, difference.high, "+.4f"),
            _verdict(metric),
        )
    out.print(shown)
    verdict = f"{'passed' if found.passed else 'not passed'}: {found.reason}"
    out.print(verdict, highlight=False, markup=False, soft_wrap=True)


def _verdict(metric: "GateMetric") -> str:
    needed = f" (about {metric.queries_needed:,} queries would decide)" if metric.queries_needed else ""
    return f"{metric.state}{needed}"


def _interval(low: float | None, high: float | None, form: str = ".4f") -> str:
    return "" if low is None or high is None else f"{low:{form}} to {high:{form}}"
