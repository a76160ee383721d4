"""`tally learn judgments`: how good each document is for each query."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tally.cli.destination import Force, Output, check_binary, destination
from tally.cli.event_range import Days, EventsSince, EventsUntil
from tally.cli.learning_options import (
    MaxReward,
    RetrieverName,
    Rewards,
    SegmentPath,
    curves_in,
    learning_range,
    reward_map,
    scope_of,
)
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import counted, out, say, table

if TYPE_CHECKING:
    from learning.estimators.curve import PropensityCurve
    from learning.judgments import CurvesOf, JudgmentRequest, Judgments
    from learning.scope import LearningScope
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings

JudgmentFormat = Literal["table", "qrels", "jsonl", "parquet", "dataset"]
SHOWN_ROWS = 50
"""Rows of a table. Files have all."""
MAX_CELL = 60
"""Largest length of a text in a table, in characters."""

JudgingMethod = Annotated[
    Literal["ctr", "coec", "ips", "graded"],
    typer.Option(help="Click-through; clicks over expected clicks; propensity-weighted clicks; highest reward."),
]
MinImpressions = Annotated[int, typer.Option(help="Fewest impressions of a listed pair.", min=1)]
PriorStrength = Annotated[float, typer.Option(help="Weight of the prior of ctr, in impressions.", min=0.1, max=1e6)]
LargestWeight = Annotated[float, typer.Option(help="Largest weight of a click, of ips.", min=1, max=1e9)]
GradeThresholds = Annotated[str, typer.Option(help="Lowest rewards of grades 2, 3 and 4, of graded.")]
PropensityFile = Annotated[
    Path | None, typer.Option(help="File of propensities, of ips. Default: estimated on the same range.")
]
JudgmentFormatOption = Annotated[
    JudgmentFormat | None, typer.Option("--format", help="Default: that of the file's suffix, else table.")
]
QueriesFile = Annotated[Path | None, typer.Option("--queries", help="File for the query ids of qrels and their texts.")]
NameOfDataset = Annotated[str | None, typer.Option(help="Name of the dataset. Default: the retriever and the method.")]


@needs("learning")
def judgments(
    retriever: RetrieverName,
    method: JudgingMethod = "ctr",
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    by: SegmentPath = None,
    min_impressions: MinImpressions = 1,
    prior_strength: PriorStrength = 10,
    clip: LargestWeight = 10,
    propensities: PropensityFile = None,
    rewards: Rewards = None,
    max_reward: MaxReward = 5,
    grades: GradeThresholds = "1.5,2,3",
    output_format: JudgmentFormatOption = None,
    output: Output = None,
    queries: QueriesFile = None,
    dataset_name: NameOfDataset = None,
    force: Force = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Judge how good each document is for each query, from impressions and clicks of the last seven days.

    Examples:
        tally learn judgments hybrid --days 30 --min-impressions 20
        tally learn judgments hybrid --method ips --by metadata.device --propensities curves.json \\
            --output hybrid.qrels --queries queries.tsv
    """
    from learning.judgments import JudgmentRequest, parse_thresholds

    chosen = _format(output_format, output, queries, as_json=as_json)
    for path in filter(None, (output, queries)):
        _check_target(path, force=force)
    rewards_by_type = reward_map(rewards, max_reward)
    settings = load_settings(data_dir, "clickhouse")
    scope = scope_of(settings, namespace, retriever, learning_range(since, until, days), by)
    with _named_options():
        request = JudgmentRequest(
            method, min_impressions, prior_strength, clip, rewards_by_type, parse_thresholds(grades)
        ).checked()
    found = _judged(settings, scope, request, propensities)
    with _named_options():
        _write(found, chosen, output, queries, dataset_name, force=force)
    for note in found.notes:
        say(note)


def _format(
    chosen: JudgmentFormat | None, output: Path | None, queries: Path | None, *, as_json: bool
) -> JudgmentFormat | Literal["json"]:
    if as_json:
        if chosen or output:
            raise typer.BadParameter("choose --json, or --format and --output", param_hint="--json")
        return "json"
    of_suffix: dict[str, JudgmentFormat] = {
        **{".jsonl": "jsonl", ".parquet": "parquet", ".qrels": "qrels", ".json": "dataset"}
    }
    found = chosen or (of_suffix.get(output.suffix.lower()) if output else "table")
    if found is None or (output and found == "table"):
        raise typer.BadParameter(
            "name the file .qrels, .jsonl, .parquet or .json (a dataset), or choose --format", param_hint="--output"
        )
    if (found == "qrels") != (queries is not None):
        raise typer.BadParameter(
            "the ids of queries in qrels need a file with their texts: --format qrels --queries FILE",
            param_hint="--queries",
        )
    if found == "parquet":
        check_binary("Parquet", output)
    if queries is not None and output is not None and queries.resolve() == output.resolve():
        raise typer.BadParameter("is the file of --output", param_hint="--queries")
    return found


def _check_target(path: Path, *, force: bool) -> None:
    from tally.output_file import check_target

    check_target(path, force=force)


@contextmanager
def _named_options() -> Iterator[None]:
    """Raise BadParameter for a ScopeError."""
    from learning.scope import ScopeError

    try:
        yield
    except ScopeError as error:
        raise typer.BadParameter(str(error), param_hint=f"--{error.parameter}") from None


def _judged(
    settings: "Settings", scope: "LearningScope", request: "JudgmentRequest", propensities: Path | None
) -> "Judgments":
    from learning.judgments import judge
    from learning.propensities import estimate
    from tally.answering import queried

    curves_of = estimate if propensities is None else _curves_in(propensities, scope)

    async def ask(database: "ClickHouse") -> "Judgments":
        return await judge(settings, database, scope, request, curves_of)

    return queried(settings, ask)


def _curves_in(path: Path, scope: "LearningScope") -> "CurvesOf":
    """Return a function that returns the curves of a file. Raises BadParameter."""
    curves = curves_in(path, scope)

    async def read_before(*_: object) -> "list[PropensityCurve]":
        return curves

    return read_before


def _write(
    found: "Judgments",
    chosen: JudgmentFormat | Literal["json"],
    output: Path | None,
    queries: Path | None,
    dataset_name: str | None,
    *,
    force: bool,
) -> None:
    from learning import judgment_formats as formats

    def dataset(judged: "Judgments") -> Iterable[bytes]:
        import json

        name = formats.dataset_name(judged, dataset_name)
        return [json.dumps(formats.evaluation_dataset(judged, name), ensure_ascii=False).encode() + b"\n"]

    if chosen == "table":
        _print(found)
        return
    if chosen == "json":
        scope = found.scope
        about = {"retriever_id": scope.retriever, "method": found.method, "since": scope.since, "until": scope.until}
        answer_json({**about, "judgments": [row._asdict() for row in found.rows()], "notes": list(found.notes)})
        return
    writers: dict[str, Callable[[Judgments], Iterable[bytes]]] = {
        **{"jsonl": formats.json_lines, "parquet": formats.parquet, "qrels": formats.trec_qrels, "dataset": dataset}
    }
    with ExitStack() as opened:  # the files get their names at the end: both or none
        if queries is not None:
            write_query = opened.enter_context(destination(queries, force=force))
            for piece in formats.query_lines(found):
                write_query(piece)
        pieces = writers[chosen](found)
        write = opened.enter_context(destination(output, force=force))
        for piece in pieces:
            write(piece)
    if output is not None:
        say(f"{counted(len(found), 'judgment')} written to {output}")


def _print(found: "Judgments") -> None:
    scope = found.scope
    shown = table(
        *("query", "document", "value", "grade", "impressions", "clicks", "effective_n"),
        title=f"How good is each document for each query? ({found.method})",
        caption=f"retriever {scope.retriever}, namespace {scope.namespace}, "
        f"{scope.since:%Y-%m-%d %H:%M} to {scope.until:%Y-%m-%d %H:%M} UTC",
        right=range(2, 7),
        keep=("query", "document", "value", "grade"),
        elsewhere="--json",
    )
    for row in found.rows(SHOWN_ROWS):
        interval = "" if row.low is None else f" ({row.low:.3f}-{row.high:.3f})"
        value = f"{row.value:.0f}" if found.method == "graded" else f"{row.value:.3f}{interval}"
        shown.add_row(
            *(_shortened(row.query), _shortened(row.document), value, row.grade),
            *(f"{row.impressions:,}", f"{row.clicks:,}", f"{row.effective_n:,.1f}"),
        )
    out.print(shown)
    if len(found) > SHOWN_ROWS:
        say(f"only the first {SHOWN_ROWS} of {len(found):,} judgments are shown: see --output and --json")


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"
