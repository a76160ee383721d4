"""Options of commands that learn from events."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.rewards import MAX_REWARD, RewardMap, parse_rewards
from tally.cli.event_range import event_range

if TYPE_CHECKING:
    from learning.estimators.curve import PropensityCurve
    from learning.scope import LearningScope
    from runtime.settings import Settings

RetrieverName = Annotated[str, typer.Argument(help="Retriever (retriever_id) whose results are learned from.")]
SegmentPath = Annotated[
    str | None,
    typer.Option("--by", help="Text in the metadata that divides the results, such as metadata.device. Default: none."),
]
Rewards = Annotated[
    str | None,
    typer.Option(help="Rewards by type instead of the default ones: click=1,purchase=3, or the same as JSON."),
]
MaxReward = Annotated[float, typer.Option(help="Largest absolute reward of one interaction.", min=0.1, max=100)]

DEFAULT_DAYS = 7.0


def learning_range(since: str | None, until: str | None, days: float | None) -> tuple[datetime, datetime]:
    """Return the range of event time that options name, by default the last seven days. Raises BadParameter."""
    return event_range(since, until, DEFAULT_DAYS if since is None and days is None else days, None)


def scope_of(
    settings: "Settings",
    namespace: str | None,
    retriever: str,
    begin_end: tuple[datetime, datetime],
    by: str | None,
    *,
    retriever_hint: str = "RETRIEVER",
) -> "LearningScope":
    """Return the scope that options name. `retriever_hint`: name of the parameter. Raises BadParameter."""
    from learning.scope import LearningScope, ScopeError, segment_path

    try:
        path = segment_path(by)
        return LearningScope(
            namespace or settings.namespace, retriever, *begin_end, path, settings.query_path
        ).checked()
    except ScopeError as error:
        hint = retriever_hint if error.parameter == "retriever" else f"--{error.parameter}"
        raise typer.BadParameter(str(error), param_hint=hint) from None


def reward_map(text: str | None, most: float = MAX_REWARD, *, hint: str = "--rewards") -> RewardMap:
    """Return the reward map that options name. `hint`: name of the option. Raises BadParameter."""
    try:
        return RewardMap(most=most) if text is None else parse_rewards(text, most)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def curves_in(path: Path, scope: "LearningScope") -> "list[PropensityCurve]":
    """Return the curves of a file of `tally learn propensities`, for this scope. Raises BadParameter."""
    from learning.propensity_file import MAX_FILE_BYTES, PropensityFileError, read_curves

    try:
        with path.open("rb") as file:
            return read_curves(file.read(MAX_FILE_BYTES + 1), scope)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror or error}", param_hint="--propensities") from None
    except PropensityFileError as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="--propensities") from None


def parsed_assignments(texts: list[str]) -> dict[str, Any]:
    """Return the values of a learning configuration that --set names, by name. Raises BadParameter."""
    from learning.weights.config_text import ConfigError, parse_assignments

    try:
        return parse_assignments(texts)
    except ConfigError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None
