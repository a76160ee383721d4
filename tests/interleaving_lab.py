"""Interleaved executions of tests: drafts, their events as rows, and the result in plain Python."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from learning.interleaving.drafts import DraftRequest, RankingSpec, make_draft
from learning.interleaving.events import ExperimentScope
from learning.interleaving.results import ExperimentResult, read_result
from learning.interleaving.tokens import read_token, signing_secret
from runtime.http.keys import ROOT, SCOPES, ApiKey, hash_of
from runtime.settings import Settings
from schemas.interaction import Interaction
from tests.http_lab import KEY
from tests.lab import Lab, click

NUMBERS = itertools.count(1)
A, B = RankingSpec("old", ["s", "x", "y", "z"]), RankingSpec("new", ["s", "z", "w", "x"])
NOW = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
"""Time of events: after the drafts that tests make."""
SINCE, UNTIL = NOW - timedelta(days=1), NOW + timedelta(days=1)


def space() -> str:
    """A namespace that no other test has."""
    return f"interleaved-{next(NUMBERS)}"


def root_key(namespace: str) -> ApiKey:
    """The key that TALLY_API_KEY makes."""
    return ApiKey(ROOT, hash_of(KEY), SCOPES, (namespace,))


def with_root(settings: Settings, namespace: str) -> Settings:
    """Settings of a process that has TALLY_API_KEY."""
    return settings.model_copy(update={"api_key": SecretStr(KEY), "api_namespaces": (namespace,)})


def draft(
    namespace: str,
    execution: str | None,
    *,
    experiment: str = "test",
    key: ApiKey | None = None,
    a: RankingSpec = A,
    b: RankingSpec = B,
    k: int = 5,
) -> dict[str, Any]:
    """Make a draft of the two rankings."""
    return make_draft(DraftRequest(experiment, a, b, k, execution), key or root_key(namespace), namespace)


def made_at(token: str, moment: datetime, namespace: str, document: str) -> str:
    """Return the same token, as it were if it had been made at another time."""
    read = read_token(token)
    assert read is not None
    changed = read[0]._replace(issued_ms=int(moment.timestamp() * 1000))
    return changed.signed(signing_secret(root_key(namespace)), namespace, document)


def event_of(result: dict[str, Any], execution: str, kind: str, second: float = 0, **fields: Any) -> Interaction:
    """Return an event of an interleaved result, some seconds after NOW."""
    about = {"metadata": {"interleaving": result["token"]}, "occurred_at": NOW + timedelta(seconds=second), **fields}
    return click(result["feature_id"], execution, interaction_type=[kind], position=result["position"], **about)


def shown(found: dict[str, Any], execution: str) -> Iterator[Interaction]:
    """Yield an impression of each result."""
    for each in found["results"]:
        yield event_of(each, execution, "impression")


def result_of(found: dict[str, Any], team: str) -> dict[str, Any]:
    """Return the first result of a team."""
    return next(each for each in found["results"] if each["team"] == team)


def clicked(found: dict[str, Any], execution: str, teams: Sequence[str]) -> Iterator[Interaction]:
    """Yield impressions, and a click on the first result of each team, in order."""
    yield from shown(found, execution)
    for second, team in enumerate(teams, 1):
        yield event_of(result_of(found, team), execution, "click", second)


async def result(lab: Lab, namespace: str, **changes: Any) -> ExperimentResult:
    """Read the result of the experiment around NOW."""
    scope = ExperimentScope(**{
        **{"namespace": namespace, "experiment": "test", "since": SINCE, "until": UNTIL},
        **changes,
    }).checked()  # fmt: skip
    return await read_result(with_root(lab.settings, namespace), lab.database, scope)
