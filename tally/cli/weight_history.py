"""`tally learn weight-history` and `tally learn session-use`: what learned weights were, and how searches went."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tally.cli.event_range import Days, EventsSince, EventsUntil
from tally.cli.learning_options import RetrieverName, learning_range, scope_of
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import counted, err, out, say, table

if TYPE_CHECKING:
    from learning.weights.history import WeightHistory
    from learning.weights.performance import SessionComparison
    from runtime.clickhouse import ClickHouse

_OPTIONS = {"user_id": "--user", "segment": "--segment", "level": "--level", "retriever": "RETRIEVER"}
_USES = {
    "session": "learned weights, with signals of the session",
    "no_session": "learned weights, without",
    "not_learned": "static weights, or shadow mode",
    "": "no decision in the events",
}


@needs("learning")
def weight_history(
    retriever: RetrieverName,
    days: Annotated[int, typer.Option(help="Days until today.", min=1, max=366)] = 30,
    level: Annotated[
        Literal["personal", "segment", "global"] | None,
        typer.Option(help="Default: personal with --user, segment with --segment, else global."),
    ] = None,
    segment: Annotated[str, typer.Option(help="Weights of this segment: its texts, joined by |.")] = "",
    user: Annotated[str, typer.Option(help="Weights of this user (user_id).")] = "",
    plot: Annotated[Path | None, typer.Option(help="Also draw a chart to this .png or .svg file.")] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show the weight of each feature by day, without exploration, from the counts of results up to that day.

    All days are computed with the learning configuration that is in force now.

    Examples:
        tally learn weight-history hybrid --days 90 --plot weights.png
        tally learn weight-history hybrid --segment de --json
    """
    from learning.scope import ScopeError, checked_retriever
    from learning.weights.configs import LearningConfigVersions
    from learning.weights.history import HistoryRequest, read_history
    from tally.answering import queried
    from tally.report_output import check_files

    check_files(None, plot, force=False)
    settings = load_settings(data_dir, "clickhouse")
    space = namespace or settings.namespace

    async def ask(database: "ClickHouse") -> "WeightHistory":
        version = await LearningConfigVersions(settings, database, space).get(checked_retriever(retriever))
        return await read_history(database, space, version, request)

    try:
        request = HistoryRequest.of(retriever, days, level, segment, user)
        found = queried(settings, ask)
    except ScopeError as error:
        raise typer.BadParameter(str(error), param_hint=_OPTIONS[error.parameter]) from None
    if plot and found.days:
        _draw(found, space, plot)
    if as_json:
        answer_json(found.body(space))
    elif not found.days:
        say(f"retriever {retriever} has no counts at the level {found.request.level} until today")
    else:
        _print_days(found, space)


@needs("learning")
def session_use(
    retriever: RetrieverName,
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Compare executions whose weights used signals of the session with the others.

    The decisions are those in metadata.learned_fusion_context of the events. Different searches are compared: the
    difference is not the effect of the signals.

    Examples:
        tally learn session-use hybrid --days 7
    """
    from learning.weights.performance import compare_session_use
    from tally.answering import queried

    settings = load_settings(data_dir, "clickhouse")
    scope = scope_of(settings, namespace, retriever, learning_range(since, until, days), None)
    with err.status("reading executions"):
        found = queried(settings, lambda database: compare_session_use(settings, database, scope))
    if as_json:
        from learning.weights.performance import sessions_body

        answer_json(sessions_body(found))
    elif not found.groups:
        say(f"retriever {retriever} has no executions in this range")
    else:
        _print_sessions(found)


def _print_days(found: "WeightHistory", namespace: str) -> None:
    from learning.weights.history import date_of

    names = ("day", "feature", "weight", "mean", "interactions", "exploration")
    shown = table(
        *names,
        title=f"Weights of {found.request.retriever}: {found.request.level}",
        caption=f"{namespace}, learning configuration {found.config_version}; in brackets 95 % intervals",
        right=range(2, len(names)),
        keep=names[:4],
    )
    for each in found.days:
        for number, feature in enumerate(each.features):
            first = (date_of(each.day), f"{each.interactions:,}", f"{each.effective_exploration:.3f}")
            day, interactions, exploration = first if number == 0 else ("", "", "")
            mean = f"{feature.mean:.4f} ({feature.low:.4f} to {feature.high:.4f})"
            shown.add_row(day, feature.feature_uri, f"{feature.weight:.4f}", mean, interactions, exploration)
    out.print(shown)


def _print_sessions(found: "SessionComparison") -> None:
    from learning.weights.performance import notes_of

    names = ("weights", "executions", "share", "reward", "ctr", "mrr")
    scope = found.scope
    shown = table(
        *names,
        title=f"Executions of {scope.retriever} by the use of session signals",
        caption=f"{scope.namespace}, {scope.since:%F %R} to {scope.until:%F %R} UTC; in brackets 95 % intervals",
        right=True,
        keep=names,
    )
    for use, values in found.groups.items():
        rates = (_rate(values, name) for name in names[2:])
        shown.add_row(_USES[use], f"{values['executions']:,}", *rates)
    out.print(shown)
    for line in notes_of(found):
        say(line)


def _rate(values: Any, name: str) -> str:
    if values[name] is None:
        return "-"
    low, high = values[f"{name}_low"], values[f"{name}_high"]
    return f"{values[name]:.4f}" + (f" ({low:.4f} to {high:.4f})" if low is not None else "")


@needs("plot")
def _draw(found: "WeightHistory", namespace: str, path: Path) -> None:
    from tally.plot_weights import draw_weights

    omitted = draw_weights(found, namespace, path)
    say(f"chart written to {path}" + (f"; {counted(omitted, 'feature')} not drawn" if omitted else ""))
