"""`tally export training` and `tally export verify`: training sets, and whether the log still gives their bytes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runtime.errors import TallyError
from tally.cli.destination import Force
from tally.cli.event_range import Days, EventsSince, EventsUntil, event_range
from tally.cli.learning_options import MaxReward, Rewards, SegmentPath, curves_in, reward_map, scope_of
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs, parse_time
from tally.cli.output import err, say

if TYPE_CHECKING:
    from learning.estimators.curve import PropensityCurve
    from learning.scope import LearningScope
    from learning.training_manifest import Manifest
    from learning.training_request import TrainingRequest
    from learning.training_verify import TrainingComparison
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings
    from tally.training import TrainingExport

Label = Literal["click", "graded", "reward", "ips"]
FileFormat = Literal["parquet", "libsvm", "lightgbm"]
_MIB = 1024 * 1024


@needs("learning")
def training(
    retriever: Annotated[str, typer.Option(help="Retriever (retriever_id) whose results are exported.")],
    output: Annotated[Path, typer.Option(help="File, which appears once it is complete, with FILE.manifest.json.")],
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    label: Annotated[Label, typer.Option(help="Label of a result.")] = "click",
    features: Annotated[
        str, typer.Option(help="Features, separated by commas: numeric fields, and paths such as metadata.price.")
    ] = "document_score",
    output_format: Annotated[
        FileFormat, typer.Option("--format", help="libsvm is read by xgboost; parquet and lightgbm by LightGBM.")
    ] = "parquet",
    horizon_hours: Annotated[
        float,
        typer.Option(help="Longest time from an impression to an event that counts for its label.", min=0, max=8784),
    ] = 24,
    validation: Annotated[
        str, typer.Option(help="Begin of the validation set: share of the range at its end, or a time.")
    ] = "0.2",
    propensities: Annotated[
        Path | None,
        typer.Option(help="File of `tally learn propensities`. Default for label ips: estimated on the same range."),
    ] = None,
    rewards: Rewards = None,
    max_reward: MaxReward = 5.0,
    clip: Annotated[float, typer.Option(help="Largest weight of a click, of label ips.", min=1, max=1e9)] = 10.0,
    by: SegmentPath = None,
    force: Force = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Write a training set: a row for each result shown, with its label, features and split.

    Labels count events within the horizon after the impression; features are those of the impression. The same range
    gives the same bytes; later events change nothing.

    Examples:
        tally export training --retriever hybrid --days 30 --label graded \\
            --features document_score,metadata.price --output train.parquet
    """
    from learning.training_request import TrainingRequest

    settings = load_settings(data_dir, "clickhouse")
    scope = scope_of(settings, namespace, retriever, _range(since, until, days), by, retriever_hint="--retriever")
    request = TrainingRequest(
        scope,
        label,
        tuple(name.strip() for name in features.split(",") if name.strip()),
        output_format,
        _validation_from(validation, scope),
        round(horizon_hours * 3_600_000),
        reward_map(rewards, max_reward),
        _curves(settings, scope, label, propensities),
        clip,
    )
    _say_export(_exported(settings, _checked(request), output, force=force), as_json=as_json)


def _checked(request: "TrainingRequest") -> "TrainingRequest":
    from learning.scope import ScopeError

    try:
        return request.checked()
    except ScopeError as error:
        raise typer.BadParameter(str(error), param_hint=f"--{error.parameter}") from None


def _range(since: str | None, until: str | None, days: float | None) -> tuple[datetime, datetime]:
    if since is None and days is None:
        raise typer.BadParameter("name the range: --since, or --days", param_hint="--since")
    if until is None:
        until = datetime.now(UTC).replace(microsecond=0).isoformat()
    begin, end = event_range(since, until, days, None)
    return _in_ms(begin), _in_ms(end)


def _in_ms(moment: datetime) -> datetime:
    """Return a time in whole milliseconds, as the range is read and recorded."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _validation_from(text: str, scope: "LearningScope") -> datetime:
    try:
        share = float(text)
    except ValueError:
        return _in_ms(parse_time(text) or scope.until)
    if not 0 <= share <= 1:
        raise typer.BadParameter("a share is from 0 to 1", param_hint="--validation")
    length_ms = (scope.until - scope.since) / timedelta(milliseconds=1)
    return scope.until - timedelta(milliseconds=round(share * length_ms))


def _curves(
    settings: "Settings", scope: "LearningScope", label: Label, path: Path | None
) -> "Sequence[PropensityCurve]":
    """Return the propensities of a file; without one those of the same events, if the label needs them."""
    if path is not None:
        return curves_in(path, scope)
    if label != "ips":
        return ()
    from learning.propensities import estimate
    from tally.answering import queried

    async def estimated(database: "ClickHouse") -> "list[PropensityCurve]":
        return await estimate(settings, database, scope)

    with err.status("estimating propensities"):
        return queried(settings, estimated)


def _exported(settings: "Settings", request: "TrainingRequest", output: Path, *, force: bool) -> "TrainingExport":
    from tally.answering import queried
    from tally.training import export_training

    def report(rows: int, size: int) -> None:
        progress.update(f"{rows:,} rows, {size / _MIB:,.1f} MiB exported")

    async def run(database: "ClickHouse") -> "TrainingExport":
        return await export_training(settings, database, request, output, report, force=force)

    with err.status("reading the log") as progress:
        return queried(settings, run)


def _say_export(done: "TrainingExport", *, as_json: bool) -> None:
    counts, files = done.manifest.counts, done.manifest.files
    total = counts.total
    if as_json:
        listed = [{"name": name, **digest._asdict()} for name, digest in files]
        found = {"manifest": str(done.manifest_file), "files": listed, "counts": counts.as_json()}
        answer_json({**found, "seconds": done.seconds})
    else:
        size = sum(digest.bytes for _name, digest in files)
        say(
            f"exported {total.rows:,} rows of {total.executions:,} executions, {total.positives:,} of them positive; "
            f"{counts.validation.rows:,} for validation; {size / _MIB:,.1f} MiB in {done.seconds:.1f} s"
        )
        say(f"manifest: {done.manifest_file}")
    if not total.positives:
        say("warning: no row has a positive label", style="yellow")
    if counts.open_horizon:
        say(
            f"warning: the horizon of {counts.open_horizon:,} rows had not ended: later events would change their "
            "labels. An earlier --until leaves them out",
            style="yellow",
        )
    if counts.unknown_propensity:
        say(
            f"warning: {counts.unknown_propensity:,} results are at a position without a propensity; label ips leaves "
            "them out",
            style="yellow",
        )


@needs("learning")
def verify(
    manifest: Annotated[Path, typer.Argument(help="Manifest of a training set: FILE.manifest.json.")],
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Say whether the log still gives the bytes of a training set, and if not, why.

    Deletions since then are named. Exit code 0: the log gives the same bytes, and no file was changed; 1: it does not.

    Examples:
        tally export verify train.parquet.manifest.json
    """
    from tally.training import read_manifest, states_of

    settings = load_settings(data_dir, "clickhouse")
    recorded = read_manifest(manifest)
    found = _compared(settings, recorded)
    states = states_of(manifest, recorded)
    reasons = [*found.reasons(recorded), *(f"{name} on disk is {state}" for name, state in states.items()
                                           if state != "same")]  # fmt: skip
    if as_json:
        answer_json(_comparison_json(found, states, reasons))
    else:
        say("the log gives the same bytes" if found.is_same else "the log gives other bytes")
        for reason in reasons:
            say(f"- {reason}")
    if not found.is_same or "changed" in states.values():
        raise typer.Exit(TallyError.exit_code)


def _compared(settings: "Settings", recorded: "Manifest") -> "TrainingComparison":
    from learning.training_verify import compare
    from tally.answering import queried

    def report(rows: int, size: int) -> None:
        progress.update(f"{rows:,} rows, {size / _MIB:,.1f} MiB compared")

    async def run(database: "ClickHouse") -> "TrainingComparison":
        return await compare(settings, database, recorded, report)

    with err.status("reading the log") as progress:
        return queried(settings, run)


def _comparison_json(found: "TrainingComparison", states: Any, reasons: list[str]) -> dict[str, Any]:
    return {
        "same": found.is_same,
        "reasons": reasons,
        "deleted": sum(change.deleted for change in found.changes),
        "deleted_ids": found.deleted_ids,
        "changes": [change._asdict() for change in found.changes],
        "files": states,
        "log": [digest._asdict() for digest in found.files],
        "pyarrow": found.writer,
    }
