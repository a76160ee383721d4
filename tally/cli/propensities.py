"""`tally learn propensities`: how much each position is examined, from the stored events."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from learning.estimators.curve import DEFAULT_METHOD, PropensityMethod
from tally.cli.destination import Force, Output, destination
from tally.cli.event_range import Days, EventsSince, EventsUntil
from tally.cli.learning_options import RetrieverName, SegmentPath, learning_range, scope_of
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import err, out, progress_bar, say, table

if TYPE_CHECKING:
    from learning.counts import ClickCounts
    from learning.estimators.curve import PropensityCurve, PropensityPoint
    from learning.scope import LearningScope
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings


@needs("learning")
def propensities(
    retriever: RetrieverName,
    method: Annotated[
        PropensityMethod,
        typer.Option(help="Comparison of positions on equal documents, a click model, or slots filled at random."),
    ] = DEFAULT_METHOD,
    by: SegmentPath = None,
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    replicates: Annotated[
        int, typer.Option(help="Resampled logs from which intervals are computed.", min=50, max=10_000)
    ] = 200,
    output: Output = None,
    force: Force = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw a chart to this .png or .svg file.")] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Estimate how much each position is examined, relative to the first one shown, with 95 % intervals.

    --output writes the JSON that other commands read. Exits 1 with the reason where the events cannot say.

    Examples:
        tally learn propensities dense --days 30 --by metadata.device --plot propensities.png
        tally learn propensities dense --method em --since 2026-11-01 --until 2026-12-01 --output dense.json
    """
    from learning.propensities import curves_of
    from learning.propensity_file import curves_document
    from tally.report_output import check_files

    check_files(output, plot, force=force)
    settings = load_settings(data_dir, "clickhouse")
    scope = scope_of(settings, namespace, retriever, learning_range(since, until, days), by)
    counts = _read(settings, scope, method)
    with progress_bar() as progress:
        task = progress.add_task("resampling", total=replicates * len(counts))
        curves = curves_of(counts, method, replicates, lambda: progress.advance(task))
    document = curves_document(scope, curves)
    if output:
        with destination(output, force=force) as write:
            write(f"{json.dumps(document)}\n".encode())
        say(f"propensities written to {output}")
    if plot:
        _draw(scope, curves, plot)
    if as_json:
        answer_json(document)
    else:
        _print(scope, curves)


def _read(settings: "Settings", scope: "LearningScope", method: PropensityMethod) -> "dict[str, ClickCounts]":
    from learning.propensities import read_counts
    from tally.answering import queried

    async def read(database: "ClickHouse") -> "dict[str, ClickCounts]":
        return await read_counts(settings, database, scope, method)

    with err.status("counting clicks"):
        return queried(settings, read)


def _print(scope: "LearningScope", curves: "Sequence[PropensityCurve]") -> None:
    by = ".".join(scope.segment_path)
    names = ["position", "impressions", "clicks", "documents", "propensity", "reason"]
    since, until = (f"{moment:%Y-%m-%d %H:%M}" for moment in (scope.since, scope.until))
    shown = table(
        *([by] if by else []),
        *names,
        title=f"How much is each position examined, relative to position {curves[0].reference}?",
        caption=f"{scope.retriever}, {curves[0].method}, {scope.namespace}, {since} to {until} UTC; "
        "in brackets 95 % intervals",
        right=range(len(names) - 1) if not by else range(1, len(names)),
        keep=[*([by] if by else []), "position", "propensity", "reason", "impressions", "clicks", "documents"],
    )
    for curve in curves:
        for point in curve.points:
            segment = [curve.segment or "(none)"] if by else []
            counts = (f"{number:,}" for number in (point.impressions, point.clicks, point.items))
            shown.add_row(*segment, point.position, *counts, _value(point), point.reason)
    out.print(shown)
    for curve in curves:
        if curve.omitted:
            say(
                f"{curve.omitted:,} impressions are left out: without a query text, or at positions below "
                f"{curve.points[-1].position}"
            )


def _value(point: "PropensityPoint") -> str:
    if point.value is None:
        return "-"
    ends = "" if point.low is None or point.high is None else f" ({point.low:.3f}-{point.high:.3f})"
    return f"{point.value:.3f}{ends}"


@needs("plot")
def _draw(scope: "LearningScope", curves: "Sequence[PropensityCurve]", path: Path) -> None:
    from tally.plot_propensities import draw_propensities

    say(draw_propensities(scope, curves, path))
