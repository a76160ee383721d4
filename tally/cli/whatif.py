"""`tally learn whatif`: the reward that another learning configuration would have had."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tally.cli.event_range import Days, EventsSince, EventsUntil
from tally.cli.learning_options import RetrieverName, learning_range, parsed_assignments, reward_map, scope_of
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import out, progress_bar, say, table
from tally.cli.policy import MinEss

if TYPE_CHECKING:
    from learning.estimators.off_policy import PolicyValue
    from learning.weights.tuning import ComparedConfig, WhatIfEstimate, WhatIfRequest
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings
    from schemas.rewards import RewardMap

RewardsToLearn = Annotated[
    str | None,
    typer.Option(
        "--reward-map", help="Rewards that weights are learned from: click=1,purchase=3, or the same as JSON."
    ),
]
Decay = Annotated[float | None, typer.Option("--decay", help="decay_factor: factor of an event for each day of age.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Changed value of the learning configuration: name=value. Repeatable."),
]
Measure = Annotated[
    str | None,
    typer.Option(
        help="Rewards by which both configurations are measured, in the form of --reward-map. Default: those of the "
        "configuration in force."
    ),
]
MeasureMost = Annotated[
    float | None, typer.Option("--max-reward", help="Largest reward of one event, with --measure.", min=0.1, max=100)
]


@needs("learning")
def whatif(
    retriever: RetrieverName,
    rewards: RewardsToLearn = None,
    decay: Decay = None,
    assignments: Changes = None,
    measure: Measure = None,
    max_reward: MeasureMost = None,
    min_ess: MinEss = None,
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Estimate the reward of a changed learning configuration, from the decisions that were logged. Default: 7 days.

    Exits 1 with the reason where the log cannot answer.

    Examples:
        tally learn whatif hybrid --decay 0.99 --days 30
        tally learn whatif hybrid --reward-map click=1,purchase=3 --set min_interactions=20 --measure purchase=1
    """
    from learning.weights.tuning import WhatIfRequest

    changes = _changes(rewards, decay, assignments or [])
    settings = load_settings(data_dir, "clickhouse")
    scope = scope_of(settings, namespace, retriever, learning_range(since, until, days), None)
    compared, found = _run(settings, WhatIfRequest(scope, changes, _measure(measure, max_reward), min_ess))
    if as_json:
        named = {"retriever_id": retriever, "since": scope.since, "until": scope.until}
        answer_json({**named, **compared.described(), **found.described()})
    else:
        _print(compared, found)


def _changes(rewards: str | None, decay: float | None, assignments: list[str]) -> dict[str, Any]:
    """Return the changed values by name. Raises BadParameter."""
    found = parsed_assignments(assignments)
    for option, name, value in (
        ("--decay", "decay_factor", decay),
        ("--reward-map", "reward_map", dict(reward_map(rewards, hint="--reward-map").rewards) if rewards else None),
    ):
        if value is not None and name in found:
            raise typer.BadParameter(f"{name} is also in --set", param_hint=option)
        if value is not None:
            found[name] = value
    if not found:
        raise typer.BadParameter("no change is given: name one by --set, --decay or --reward-map", param_hint="--set")
    return found


def _measure(text: str | None, most: float | None) -> "RewardMap | None":
    if text is None:
        if most is not None:
            raise typer.BadParameter("is for --measure, which is not given", param_hint="--max-reward")
        return None
    return reward_map(text, hint="--measure") if most is None else reward_map(text, most, hint="--measure")


def _run(settings: "Settings", request: "WhatIfRequest") -> "tuple[ComparedConfig, WhatIfEstimate]":
    from learning.weights.tuning import estimate_what_if
    from tally.answering import queried

    with progress_bar() as bar:
        task = bar.add_task("executions read", total=None)

        async def ask(database: "ClickHouse") -> "tuple[ComparedConfig, WhatIfEstimate]":
            return await estimate_what_if(
                settings, database, request, lambda step, done: bar.update(task, description=step, completed=done)
            )

        return queried(settings, ask)


def _print(compared: "ComparedConfig", found: "WhatIfEstimate") -> None:
    changes = compared.described()["changes"]
    named = ", ".join(f"{name} {each['in_force']} -> {each['changed']}" for name, each in changes.items())
    shown = table(
        *("feature", "level", "served", "decisions", "changed", "decisions with it"),
        title="mean weights, as served and with the changed configuration",
        right=range(2, 6),
    )
    for each in found.weights:
        shown.add_row(
            *(each.feature_uri, each.level, _weight(each.served), f"{each.served_decisions:,}"),
            *(_weight(each.expected), f"{each.expected_decisions:,}"),
        )
    out.print(shown)
    values = found.found
    rewards = ", ".join(f"{name}={value:g}" for name, value in compared.measure.rewards.items())
    shown = table(
        *("estimator", "value", "ess", "of"),
        title=f"reward per execution ({rewards}) with {named or 'no change'}",
        caption=_caption(found),
        right=True,
        keep=("estimator", "value", "ess"),
    )
    executions = f"{values.weights.executions:,} executions"
    shown.add_row("logged", _value(values.logged), "-", executions)
    for value in (*values.estimates, values.difference):
        shown.add_row(value.estimator, _value(value), f"{values.weights.ess:,.0f}", executions)
    out.print(shown)
    for line in (*(f"warning: {each}" for each in values.warnings), *found.notes):
        say(line)


def _weight(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _value(found: "PolicyValue") -> str:
    return f"{found.value:z.4f} ({found.low:z.4f} to {found.high:z.4f})"


def _caption(found: "WhatIfEstimate") -> list[str]:
    weights = found.found.weights
    left_out = found.described()["left_out"]
    return [
        f"{weights.executions:,} of {found.executions:,} executions, {weights.users:,} users; 95 % intervals",
        f"weights of decisions: mean {weights.mean:.3f} ({weights.mean_low:.3f} to {weights.mean_high:.3f}; 1 is "
        f"expected), largest {weights.largest:,.1f}; difference: snips - logged",
        *(f"left out: {each['executions']:,} ({each['meaning']})" for each in left_out),
    ]
