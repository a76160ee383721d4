"""Policies evaluated on stored events: real logs, simulated logs with a known truth, the command and the API."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from learning.policies import PolicyEvaluation, PolicyRequest, evaluate_policy
from learning.policy_routes import PATH
from learning.scope import LearningScope, Refusal
from learning.target_policy import TargetPolicy, UniformPolicy, policy_table
from producers.open_bandit import Campaign, LoggingPolicy, read_log
from schemas.interaction import Interaction
from schemas.rewards import RewardMap
from tests.analytics.loading import load
from tests.cli_lab import CommandResult, command, environment
from tests.http_lab import api_of, assert_error, with_key
from tests.lab import Lab
from tests.learning.policies import POLICIES, figures

SINCE, UNTIL = datetime(1970, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
EXECUTIONS = 240


async def evaluated(
    lab: Lab, policy: TargetPolicy, retriever: str = "shop", namespace: str = "default", **options: Any
) -> PolicyEvaluation:
    scope = LearningScope(namespace, retriever, SINCE, UNTIL)
    return await evaluate_policy(lab.settings, lab.database, PolicyRequest(scope, policy, **options))


def shown(policy: LoggingPolicy, campaign: Campaign) -> Iterator[Interaction]:
    return (each.interaction for each in read_log(policy, campaign, "default"))


@pytest.mark.parametrize(
    ("campaign", "documents", "truth", "ips", "ess"),
    [("all", 80, (0.0038, 0.0012), (0.0024, 0.0017), 340), ("men", 34, (0.0046, 0.0013), (0.0030, 0.0015), 656)],
)
async def test_the_random_policy_is_estimated_from_the_log_of_another_one(
    lab: Lab, campaign: Campaign, documents: int, truth: Any, ips: Any, ess: int
) -> None:
    """Open Bandit: the value of the policy random from the log of bts, beside the log of random itself."""
    if campaign == "all":
        await lab.emit_all(read_log("bts", campaign, "default"))
        assert (await lab.drain()).stored == 10_000
    else:
        await load(lab.database, "default", shown("bts", campaign))
    await load(lab.database, "default", shown("random", campaign), first=20_000)
    found = (await evaluated(lab, UniformPolicy(documents), "bts")).found
    logged = (await evaluated(lab, UniformPolicy(documents), "random")).found.logged
    assert (round(logged.value, 4), round(logged.high - logged.value, 4)) == truth
    by_name = {each.estimator: each for each in found.estimates}
    assert (round(by_name["ips"].value, 4), round(by_name["ips"].high - by_name["ips"].value, 4)) == ips
    assert round(found.weights.ess) == round(found.weights.ess_executions) == ess
    assert all(each.low <= logged.high and logged.low <= each.high for each in by_name.values())
    assert (await evaluated(lab, UniformPolicy(), "bts")).found == found, "the log shows every document"


async def test_a_log_that_nearly_never_shows_the_policy_is_refused(lab: Lab) -> None:
    await load(lab.database, "default", shown("bts", "women"))
    with pytest.raises(Refusal, match="effective sample size is 2 of 10,000 executions"):
        await evaluated(lab, UniformPolicy(46), "bts")
    with pytest.raises(Refusal, match=r"bts-2' of namespace .* showed no results from .*: only results with an impr"):
        await evaluated(lab, UniformPolicy(46), "bts-2")


async def test_simulated_policies_have_their_true_value(lab: Lab) -> None:
    """A slice of `python -m tests.learning.policies`: two seeds, two policies, three estimators."""
    found = [each async for each in figures(lab.settings, lab.database, range(3, 5))]
    assert len(found) == 2 * (3 * len(POLICIES) + 1)
    assert sum(each.holds for each in found) >= 11
    assert all(abs(each.error) < 0.025 for each in found)


def impression(number: int, user: str = "ada", **fields: Any) -> Interaction:
    """A result of an execution that shows one of two documents alike, and is clicked every third time."""
    plain: dict[str, Any] = {
        "feature_id": "ab"[number % 2],
        "interaction_type": ["impression", "click"] if number % 3 == 0 else ["impression"],
        "position": 0,
        "execution_id": f"{user}-{number}",
        "retriever_id": "shop",
        "user_id": user,
        "query_snapshot": {"text": "Shoes"},
        "metadata": {"propensity": 0.5},
    }
    return Interaction(**(plain | fields))


@pytest.fixture
async def shop(lab: Lab) -> Lab:
    """Executions of a shop that shows two documents alike."""
    await load(lab.database, "default", (impression(number) for number in range(EXECUTIONS)))
    return lab


async def test_rewards_are_those_of_the_map_each_type_once(shop: Lab) -> None:
    bought = [impression(number, interaction_type=["purchase"]) for number in range(0, EXECUTIONS, 6)]
    await load(shop.database, "default", [*bought, *bought], first=10_000)
    values = [(await evaluated(shop, UniformPolicy(), rewards=each)).found for each in MAPS]
    assert [each.logged.value for each in values] == pytest.approx([1 / 3, 1 / 3 + 3 / 6, 1 / 6 + 2.5 / 6])
    assert [each.estimates[0].value for each in values] == pytest.approx([each.logged.value for each in values])


MAPS = [
    RewardMap({"click": 1}),
    RewardMap({"click": 1, "purchase": 3}),
    RewardMap({"click": 1, "purchase": 3}, most=2.5),
]
"""The cap is that of a result."""


async def test_repeated_inserts_and_erased_users_leave_no_trace(shop: Lab) -> None:
    before = await evaluated(shop, UniformPolicy())
    others = [impression(number, "bob", interaction_type=["impression"]) for number in range(50)]
    await load(shop.database, "default", others, first=5_000)
    assert await evaluated(shop, UniformPolicy()) != before
    await shop.database.command(
        "INSERT INTO interactions SELECT * REPLACE (toUInt8(1) AS is_deleted, version + 1 AS version) "
        "FROM interactions WHERE user_id = 'bob'"
    )
    await load(shop.database, "default", (impression(number) for number in range(EXECUTIONS)))
    assert await evaluated(shop, UniformPolicy()) == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"metadata": {}}, "1 of 240 results have no logged propensity"),
        ({"metadata": {"propensity": "high"}}, "1 of 240 results have no logged propensity"),
        ({"metadata": {"propensity": 0}}, "1 of 240 logged propensities are not probabilities"),
        ({"metadata": {"propensity": -1e300}}, "such as -1e+300"),
        ({"metadata": {"propensity": 1e-9}}, "the largest weight is 500,000,000"),
    ],
)
async def test_one_wrong_propensity_is_enough_for_a_refusal(lab: Lab, fields: dict[str, Any], says: str) -> None:
    events = (impression(number, **(fields if number == 7 else {})) for number in range(EXECUTIONS))
    await load(lab.database, "default", events)
    with pytest.raises(Refusal) as refused:
        await evaluated(lab, UniformPolicy())
    assert says in str(refused.value)


async def test_a_policy_that_shows_something_else_is_refused(shop: Lab) -> None:
    elsewhere = policy_table([{"document": "z", "probability": 1}])
    with pytest.raises(Refusal, match=r"none of the logged results: .*; 100% of the policy's probability is on"):
        await evaluated(shop, elsewhere)
    half = policy_table([{"document": name, "probability": 0.5} for name in "az"])
    with pytest.raises(Refusal, match=r"mean weight is 0\.500 .*; 50% of the policy's probability"):
        await evaluated(shop, half)
    with pytest.raises(Refusal, match="more than 1,000 results"):
        few = shop.settings.model_copy(update={"learning_cells": 1_000})
        await load(shop.database, "default", (impression(number) for number in range(1_001)), first=10**6)
        await evaluate_policy(
            few, shop.database, PolicyRequest(LearningScope("default", "shop", SINCE, UNTIL), UniformPolicy())
        )


async def run(lab: Lab, *arguments: str) -> CommandResult:
    given = ["evaluate", "policy", *arguments, "--since", "2026-01-01"]
    return await asyncio.to_thread(command, *given, env=environment(lab.settings))


async def test_the_command_prints_the_estimates_beside_the_log(shop: Lab, tmp_path: Path) -> None:
    path = tmp_path / "policy.jsonl"
    entries = [
        {"query": "shoes", "document": "a", "probability": 0.25},
        {"query": "shoes", "document": "b", "probability": 0.75},
    ]
    path.write_text("\n".join(map(json.dumps, entries)))
    done = await run(shop, "shop", "--policy", str(path))
    assert done.returncode == 0, done.stderr
    for word in ("logged", "ips", "snips", "dr", "0.33333", "240 results of 240 executions", "mean 1.000"):
        assert word in done.stdout
    assert "\\n" not in done.stdout
    assert "240 results of 240 executions; 95 % intervals\nweights: mean" in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")][-1] == "difference"
    assert "the log shows" not in done.stderr
    alike = await run(shop, "shop", "--policy", "uniform:2")
    assert "0.00000 (0.00000 to 0.00000)" in alike.stdout
    assert "the log shows documents as this policy does already\n" in alike.stderr
    answer = json.loads((await run(shop, "shop", "--policy", str(path), "--json")).stdout)
    found = (await evaluated(shop, policy_table(entries))).described()
    assert {name: answer[name] for name in found} == json.loads(json.dumps(found))
    clipped = await run(shop, "shop", "--policy", str(path), "--max-weight", "1.2", "--estimators", "ips")
    assert "120 weights are clipped; estimated bias: ips -0.05000" in clipped.stderr
    assert "snips" not in clipped.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nobody", "--policy", "uniform"], 1, "retriever 'nobody' of namespace default showed no results from"),
        (["shop", "--policy", "uniform", "--min-ess", "1000"], 1, "at least 1000 is needed"),
        (["shop", "--policy", "uniform:0"], 2, "number of documents must be from 1"),
        (["shop", "--policy", "nothing.jsonl"], 2, "nothing.jsonl is neither `uniform`"),
        (["shop", "--policy", "uniform", "--reward", "clik"], 2, "'clik' is not an interaction type"),
        (["shop", "--policy", "uniform", "--reward", "click", "--rewards", "click=1"], 2, "--reward or --rewards"),
        (["shop", "--policy", "uniform", "--estimators", "ips,best"], 2, "'best' is not one of ips, snips, dr"),
        (["shop", "--policy", "uniform", "--until", "2025-01-01"], 2, "before it begins"),
    ],
)
async def test_errors_of_the_command(shop: Lab, arguments: list[str], code: int, says: str) -> None:
    done = await run(shop, *arguments)
    assert done.returncode == code
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


@pytest.fixture
async def api(shop: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on the shop's tables."""
    async with api_of(with_key(shop.settings), "reader") as client:
        yield client


ASKED = {"retriever_id": "shop", "policy": "uniform:2", "since": "2026-01-01"}


async def test_the_api_has_the_numbers_of_the_function(shop: Lab, api: httpx.AsyncClient) -> None:
    answer = (await api.post(PATH, json=ASKED)).json()
    found = (await evaluated(shop, UniformPolicy(2))).described()
    assert {name: answer[name] for name in found} == json.loads(json.dumps(found))
    entries = [{"document": "a", "probability": 0.5}, {"document": "b", "probability": 0.5}]
    options = {"policy": entries, "rewards": {"click": 2}, "estimators": ["snips"], "min_ess": 10, "max_weight": 5}
    (double,) = (await api.post(PATH, json=ASKED | options)).json()["estimates"]
    assert (double["estimator"], double["value"], double["clip_bias"]) == ("snips", pytest.approx(2 / 3), 0)
    schema = (await api.get("/openapi.json")).json()["components"]["schemas"]
    assert set(answer) == set(schema["OffPolicyResponse"]["properties"])
    assert set(answer["weights"]) == set(schema["WeightSummary"]["properties"])


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"retriever_id": "nobody"}, "refused", "showed no results"),
        ({"min_ess": 1_000}, "refused", "at least 1000 is needed"),
        ({"policy": [{"document": "a", "probability": 0.5}]}, None, "body.policy: the probabilities sum to 0.5"),
        ({"policy": "best"}, None, "body.policy: write uniform, uniform:N"),
        ({"policy": 3}, None, "body.policy"),
        ({"reward": "click", "rewards": {"click": 1}}, None, "body.reward: choose reward or rewards"),
        ({"rewards": {"clik": 1}}, None, "body.rewards.clik"),
        ({"estimators": ["best"]}, None, "body.estimators.0"),
        ({"until": "2025-01-01"}, None, "body.until: "),
        ({"until": 48888}, None, "body.until: "),
        ({"retriever_id": "ä" * 1_000}, None, "body.retriever_id: "),
        ({"sinc": 1}, None, "body.sinc"),
    ],
)
async def test_a_request_that_cannot_be_answered_says_why(
    api: httpx.AsyncClient, change: dict[str, Any], code: str | None, says: str
) -> None:
    error = assert_error(await api.post(PATH, json=ASKED | change), 422, "ValidationError", code)
    assert says in error["message"]


async def test_estimates_in_flight_are_bounded(shop: Lab) -> None:
    async with api_of(with_key(shop.settings, learning_in_flight=1), "reader") as api:
        answers = await asyncio.gather(*(api.post(PATH, json=ASKED) for _ in range(4)))
    assert sorted({each.status_code for each in answers}) == [200, 503]
