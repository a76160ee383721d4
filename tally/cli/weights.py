"""`tally learn weights`: what a request for weights is served, and why."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs, parse_time
from tally.cli.output import out, say, table

if TYPE_CHECKING:
    from learning.weights.decisions import WeightRequest
    from learning.weights.inspection import ExplainedWeight, ExplainedWeights, RecomputedDraws
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings

Answer = TypeVar("Answer")

RetrieverOfWeights = Annotated[str, typer.Argument(help="Retriever (retriever_id) whose features are weighed.")]


class ShowByDefault(TyperGroup):
    """Group in which the name of a retriever without a command stands for `show`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the arguments name, else `show`."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


app = typer.Typer(cls=ShowByDefault, help="Weights of a retriever's features, and why.", no_args_is_help=True)


@app.command("show")
@needs("learning")
def show_weights(
    retriever: RetrieverOfWeights,
    user: Annotated[str, typer.Option(help="User (user_id) who searches.")] = "",
    session: Annotated[str, typer.Option(help="Session (session_id) of the search.")] = "",
    segment: Annotated[str, typer.Option(help="Texts at demographic_features, joined by |.")] = "",
    features: Annotated[str, typer.Option(help="Features, separated by commas. Default: those with results.")] = "",
    mean: Annotated[bool, typer.Option("--mean", help="Means instead of draws: the same at each call.")] = False,
    at: Annotated[str | None, typer.Option(help="Day in UTC up to which events count. Default: today.")] = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show the weights that a search would be served now, from which context, and the counts behind each weight.

    The configuration and the events of the session are those of now, also with --at. `show` may be omitted.

    Examples:
        tally learn weights dense --mean
        tally learn weights dense --user ada --session visit-1
        tally learn weights show dense --user ada --features text,image --at 2026-11-01 --json
    """
    from learning.weights.decisions import WeightRequest, parse_features
    from learning.weights.inspection import explain_weights

    try:
        named = parse_features(features)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--features") from None
    settings = load_settings(data_dir, "clickhouse")
    request = WeightRequest(
        namespace or settings.namespace, retriever, user, session, segment=segment, features=named, is_mean=mean
    )
    day = _day(at)
    found = _asked(settings, retriever, lambda database: explain_weights(settings, database, request, day))
    if as_json:
        decision = found.decision
        answer_json(
            {
                "weights": decision.weights,
                "learned_fusion_context": decision.context,
                "interactions": found.interactions,
                "min_interactions": found.min_interactions,
                "features": [each._asdict() for each in found.features],
            }
        )
    else:
        _print(found, request, day)


@app.command("explain")
@needs("learning")
def explain_decision(
    retriever: RetrieverOfWeights,
    signal: Annotated[str, typer.Argument(help="Recorded decision (signal_id), such as sig_0123.")],
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Draw again for a recorded decision, from its posterior and seed. Exits 1 if the draws differ.

    Examples:
        tally learn weights explain dense "$(tally sql 'SELECT any(signal_id) FROM signals' --format tsv | tail -1)"
    """
    from learning.weights.inspection import recompute_draws

    settings = load_settings(data_dir, "clickhouse")
    within = namespace or settings.namespace
    found = _asked(settings, retriever, lambda database: recompute_draws(database, within, retriever, signal))
    if as_json:
        answer_json({**found._asdict(), "equal": found.is_equal})
    else:
        _print_recomputed(found, signal)
    if found.is_equal is False:
        raise typer.Exit(1)


def _day(text: str | None) -> int:
    """Return a day as days since 1970-01-01, UTC; by default today."""
    return int((parse_time(text) or datetime.now(UTC)).timestamp()) // 86_400


def _asked(settings: "Settings", retriever: str, ask: "Callable[[ClickHouse], Awaitable[Answer]]") -> Answer:
    from learning.weights.decisions import NoFeatures, without_counts
    from runtime.errors import TallyError
    from tally.answering import queried

    try:
        return queried(settings, ask)
    except NoFeatures:
        raise TallyError(without_counts(retriever, settings.aggregates_every_ms, "--features")) from None


def _print(found: "ExplainedWeights", request: "WeightRequest", day: int) -> None:
    context: dict[str, Any] = found.decision.context
    needed = {"global": "needs none"}
    tried = ", ".join(
        f"{level} {number:,} ({needed.get(level, f'needs {found.min_interactions:,}')})"
        for level, number in found.interactions.items()
    )
    shown = table(
        *("feature", "weight", "draw", "posterior mean", "alpha", "beta", "rewards", "negative", "unrewarded"),
        title=f"Weights of {request.retriever}: {context['context_key']}",
        caption=[
            f"namespace {request.namespace}, events until {datetime.fromtimestamp(day * 86_400, UTC):%Y-%m-%d} UTC; "
            "in brackets 95 % intervals",
            f"rewarded interactions: {tried}; configuration {context['config_version']}, "
            f"exploration {context['effective_exploration']:.3g}",
        ],
        right=True,
        keep=("feature", "weight", "posterior mean", "draw", "rewards", "unrewarded"),
    )
    for each in found.features:
        shown.add_row(
            *(each.feature_uri, f"{each.weight:.4f}", _number(each.draw), _mean(each)),
            *(_number(each.alpha), _number(each.beta)),
            *(f"{each.positive:,.6g}", f"{each.negative:,.6g}", f"{each.unrewarded:,}"),
        )
    out.print(shown)
    if context["reason"]:
        say(f"equal weights are served: {context['reason']}")
    if context["shadow"]:
        say("shadow mode: equal weights are served, the draws are recorded only")


def _print_recomputed(found: "RecomputedDraws", signal: str) -> None:
    recorded = found.recorded
    shown = table(
        *("feature", "weight", "draw", "drawn again"),
        title=f"decision {signal}",
        caption=[
            f"{found.decided_at}, execution {found.execution_id or '-'}, configuration {recorded['config_version']}",
            f"level {recorded['context_level']}, context {recorded['context_key']}, exploration "
            f"{recorded['effective_exploration']:.3g}, reason {recorded['reason'] or '-'}",
        ],
        right=True,
    )
    for name, weight in recorded["weights"].items():
        served, again = recorded["sampled_weights"].get(name), found.draws.get(name)
        shown.add_row(name, f"{weight:.4f}", _number(served), _number(again))
    out.print(shown)
    if recorded["shadow"]:
        say("shadow mode: equal weights were served, the draws were recorded only")
    if found.is_equal is None:
        say(f"no draw: equal weights were served, for the reason {recorded['reason']}")
    elif "seed" not in recorded:
        say(
            f"no draw: means were served (exploration 0), and {'the same' if found.is_equal else 'others'} are computed"
        )
    elif found.is_equal:
        say("the same draws")
    else:
        say("other draws: this numpy draws otherwise than the one that served")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _mean(each: "ExplainedWeight") -> str:
    return "-" if each.mean is None else f"{each.mean:.4f} ({each.low:.4f} to {each.high:.4f})"
