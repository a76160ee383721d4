"""`tally learn interleaving`: which of two rankings people prefer."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from schemas.interaction import InteractionType
from tally.cli.event_range import Days, EventsSince, EventsUntil, event_range
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import counted, out, progress_bar, say, table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from learning.estimators.interleaving import ShareEstimate
    from learning.interleaving.events import ExperimentScope
    from learning.interleaving.results import DraftPage, ExperimentResult
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings

DEFAULT_DAYS = 30.0
REFUSED = 1
"""Exit code of a refused verdict."""
SHOWN_CLICKS = 5
"""Most other clicks of a draft in the table; --json has the first 100."""

ExperimentArgument = Annotated[str, typer.Argument(help="Name of the experiment, as in POST /v1/interleavings.")]
OutcomeType = Annotated[InteractionType, typer.Option("--type", help="Type of the events that decide a draft.")]
DraftCount = Annotated[
    int | None,
    typer.Option("--drafts", help="List this many drafts with the events that decided them.", min=1, max=1_000),
]
OutcomeOption = Annotated[
    Literal["a", "b", "tie"] | None, typer.Option("--team", help="Of --drafts: only this outcome.")
]
Cursor = Annotated[str, typer.Option("--cursor", help="Of --drafts: next_cursor of the page before.")]


@needs("learning")
def interleaving(
    experiment: ExperimentArgument,
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    outcome_type: OutcomeType = "click",
    drafts: DraftCount = None,
    team: OutcomeOption = None,
    cursor: Cursor = "",
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Say which of two interleaved rankings people prefer, from the events of the last 30 days.

    The result may be looked at after every event. Exits 1 where the verdict is refused.

    Examples:
        tally learn interleaving new-ranker
        tally learn interleaving new-ranker --since 2026-11-01 --drafts 20 --team b
    """
    if drafts is None and (team or cursor):
        raise typer.BadParameter("needs --drafts", param_hint="--team" if team else "--cursor")
    settings = load_settings(data_dir, "clickhouse")
    begin_end = event_range(since, until, DEFAULT_DAYS if since is None and days is None else days, None)
    scope = _scope(namespace or settings.namespace, experiment, begin_end, outcome_type)
    if drafts is not None:
        page = _listed(settings, scope, team, drafts, cursor)
        answer_json(page._asdict()) if as_json else _print_drafts(page)
        return
    found = _read(settings, scope)
    answer_json(found.described()) if as_json else _print(found)
    if found.verdict == "refused":
        raise typer.Exit(REFUSED)


def _scope(
    namespace: str, experiment: str, begin_end: "tuple[datetime, datetime]", outcome_type: InteractionType
) -> "ExperimentScope":
    from learning.interleaving.events import ExperimentScope
    from learning.scope import ScopeError

    try:
        return ExperimentScope(namespace, experiment, *begin_end, outcome_type).checked()
    except ScopeError as error:
        hint = "EXPERIMENT" if error.parameter == "experiment" else f"--{error.parameter}"
        raise typer.BadParameter(str(error), param_hint=hint) from None


def _read(settings: "Settings", scope: "ExperimentScope") -> "ExperimentResult":
    from learning.interleaving.results import read_result
    from tally.answering import queried

    with progress_bar() as bar:
        task = bar.add_task("events read", total=None)

        async def ask(database: "ClickHouse") -> "ExperimentResult":
            return await read_result(settings, database, scope, lambda read: bar.update(task, completed=read))

        return queried(settings, ask)


def _listed(
    settings: "Settings", scope: "ExperimentScope", team: Literal["a", "b", "tie"] | None, limit: int, cursor: str
) -> "DraftPage":
    from learning.interleaving.results import DraftFilter, list_drafts
    from tally.answering import queried

    async def ask(database: "ClickHouse") -> "DraftPage":
        return await list_drafts(settings, database, scope, DraftFilter(team, limit, cursor))

    return queried(settings, ask)


def _print(found: "ExperimentResult") -> None:
    scope = found.scope
    shown = table(
        *("measure", "value", "count", "p"),
        title=f"{scope.experiment}: which ranking is preferred?",
        caption=[
            f"namespace {scope.namespace}, {scope.since:%Y-%m-%d %H:%M} to {scope.until:%Y-%m-%d %H:%M} UTC; "
            "95 % confidence sequences and p-values hold at every look",
            f"{counted(found.drafts, 'draft')}: a won {found.wins['a']:,}, b won {found.wins['b']:,}, "
            f"{found.ties:,} tied",
        ],
        right=True,
        keep=("measure", "value", "count", "p"),
    )
    for a, b in found.names:
        say(f"a is {a}, b is {b}")
    for name, each in (("share of b in the wins", found.preference), ("b picked first", found.sample_ratio)):
        shown.add_row(name, _value(each), f"{each.successes:,} of {each.trials:,}", f"{each.p_value:.2g}")
    out.print(shown)
    for line in (*found.problems, *found.notes):
        say(line)
    out.print(_verdict(found), markup=False, highlight=False)


def _value(found: "ShareEstimate") -> str:
    return "-" if found.value is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _verdict(found: "ExperimentResult") -> str:
    if found.verdict in ("a", "b"):
        name = found.names[0][found.verdict == "b"]
        return f"{found.verdict} ({name}) is preferred"
    return "undecided" if found.verdict == "undecided" else "refused: no verdict, for the reasons above"


def _print_drafts(page: "DraftPage") -> None:
    columns = (
        *("outcome", "interaction_id", "document", "position", "picked first", "execution_id", "clicks"),
        *("other clicks", "interleaving_id"),
    )
    shown = table(*columns, right=(3, 6), keep=columns)
    for draft in page.drafts:
        decided: dict[str, Any] = draft["decided_by"] or {}
        shown.add_row(
            *(draft["outcome"], decided.get("interaction_id", "-"), decided.get("feature_id", "-")),
            *(str(decided.get("position", "-")), draft["first"], draft["execution_id"], str(draft["clicks"])),
            *(_other_clicks(draft["other_clicks"]), draft["interleaving_id"]),
        )
    out.print(shown)
    if page.next_cursor is not None:
        say(f"more drafts: --cursor {page.next_cursor}")


def _other_clicks(clicks: "Sequence[dict[str, Any]]") -> str:
    """Return the first SHOWN_CLICKS clicks that decided nothing: document and team of each."""
    shown = [f"{each['feature_id']} ({each['team']})" for each in clicks[:SHOWN_CLICKS]]
    return ", ".join([*shown, "..."] if len(clicks) > SHOWN_CLICKS else shown) or "-"
