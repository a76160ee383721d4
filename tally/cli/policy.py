"""`tally evaluate policy`: the reward that another policy would have had."""

from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer

from schemas.interaction import InteractionType
from schemas.rewards import MAX_REWARD, RewardMap
from tally.cli.event_range import Days, EventsSince, EventsUntil
from tally.cli.learning_options import MaxReward, RetrieverName, Rewards, learning_range, reward_map, scope_of
from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import out, progress_bar, say, table

if TYPE_CHECKING:
    from learning.estimators.off_policy import OffPolicyEstimator, PolicyValue
    from learning.policies import PolicyEvaluation, PolicyRequest
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings


PolicyName = Annotated[
    str,
    typer.Option(
        "--policy",
        help="uniform:N (N documents alike), uniform (those that the log shows for a query), or a JSON-lines or "
        "Parquet file with query, document, position, probability.",
    ),
]
RewardType = Annotated[str | None, typer.Option("--reward", help="Type that has reward 1. Default: click.")]
Estimators = Annotated[str, typer.Option(help="Estimators, separated by commas.")]
MinEss = Annotated[
    float | None,
    typer.Option(help="Smallest effective sample size, in executions. Default: TALLY_MIN_ESS.", min=1, max=1e9),
]
MaxWeight = Annotated[
    float | None, typer.Option(help="Clip larger weights to this one. Default: no clipping.", min=0.001, max=1e12)
]


@needs("learning")
def policy(
    retriever: RetrieverName,
    policy_name: PolicyName,
    reward: RewardType = None,
    rewards: Rewards = None,
    max_reward: MaxReward = MAX_REWARD,
    estimators: Estimators = "ips,snips,dr",
    min_ess: MinEss = None,
    max_weight: MaxWeight = None,
    since: EventsSince = None,
    until: EventsUntil = None,
    days: Days = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Estimate the mean reward of a result under another policy, from metadata.propensity. Default: last 7 days.

    Examples:
        tally evaluate policy random --policy uniform:80 --days 40000
        tally evaluate policy hybrid --policy new.jsonl --rewards click=1,purchase=3 --estimators snips,dr
    """
    from learning.policies import PolicyRequest
    from learning.policy_file import read_policy

    settings = load_settings(data_dir, "clickhouse")
    scope = scope_of(settings, namespace, retriever, learning_range(since, until, days), None)
    request = PolicyRequest(
        scope,
        read_policy(policy_name),
        _rewards(reward, rewards, max_reward),
        _estimators(estimators),
        min_ess,
        max_weight,
    )
    found = _run(settings, request)
    if as_json:
        named = {"retriever": retriever, "policy": policy_name, "since": scope.since, "until": scope.until}
        answer_json({**named, **found.described()})
    else:
        _print(found, policy_name)


def _rewards(reward: str | None, rewards: str | None, most: float) -> RewardMap:
    if reward is not None and rewards is not None:
        raise typer.BadParameter("choose --reward or --rewards", param_hint="--reward")
    if rewards is not None:
        return reward_map(rewards, most)
    name = reward or "click"
    if name not in get_args(InteractionType):
        raise typer.BadParameter(f"{name[:40]!r} is not an interaction type", param_hint="--reward")
    return RewardMap({cast(InteractionType, name): 1.0}, most)


def _estimators(text: str) -> "tuple[OffPolicyEstimator, ...]":
    from learning.policies import ESTIMATORS

    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in ESTIMATORS]:
        raise typer.BadParameter(
            f"{unknown[0][:40]!r} is not one of {', '.join(ESTIMATORS)}", param_hint="--estimators"
        )
    return tuple(cast("list[Literal['ips', 'snips', 'dr']]", names))


def _run(settings: "Settings", request: "PolicyRequest") -> "PolicyEvaluation":
    from learning.policies import evaluate_policy
    from tally.answering import queried

    with progress_bar() as bar:
        task = bar.add_task("results read", total=None)

        async def ask(database: "ClickHouse") -> "PolicyEvaluation":
            return await evaluate_policy(settings, database, request, lambda read: bar.update(task, completed=read))

        return queried(settings, ask)


def _print(found: "PolicyEvaluation", policy_name: str) -> None:
    weights = found.found.weights
    shown = table(
        *("estimator", "value", "ess", "of"),
        title=f"mean reward of a result under {policy_name}",
        caption=_caption(found),
        right=True,
        keep=("estimator", "value", "ess"),
    )
    shown.add_row("logged", _value(found.found.logged), "-", f"{weights.executions:,} executions")
    for each in (*found.found.estimates, found.found.difference):
        shown.add_row(
            each.estimator, _value(each), f"{weights.ess_executions:,.0f}", f"{weights.executions:,} executions"
        )
    out.print(shown)
    for line in _notes(found):
        say(line)


def _value(found: "PolicyValue") -> str:
    return f"{found.value:z.5f} ({found.low:z.5f} to {found.high:z.5f})"


def _caption(found: "PolicyEvaluation") -> list[str]:
    weights = found.found.weights
    return [
        f"{weights.results:,} results of {weights.executions:,} executions; 95 % intervals",
        f"weights: mean {weights.mean:.3f} ({weights.mean_low:.3f} to {weights.mean_high:.3f}; 1 is expected), "
        f"largest {weights.largest:,.1f}, share of the top 1 %: {weights.top_share:.1%}",
        f"share of the policy on documents that the log never shows there: {found.unseen_share:.1%}",
    ]


def _notes(found: "PolicyEvaluation") -> list[str]:
    """Return remarks that a reader must not miss."""
    notes = [f"warning: {each}" for each in found.found.warnings] + list(found.found.notes)
    if found.left_out:
        notes.append(f"{found.left_out:,} results are left out: the policy has nothing for their query and position")
    if clipped := found.found.weights.clipped:
        biases = ", ".join(f"{each.estimator} {each.clip_bias:+.5f}" for each in found.found.estimates)
        notes.append(f"{clipped:,} weights are clipped; estimated bias: {biases}")
    return notes
