"""Estimates of changed configurations and recommendations: the command, the API and the published client's call."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import mixpeek
import pytest

from learning.weights.tuning import WhatIfRequest, estimate_what_if
from tests.analytics.loading import load
from tests.cli_lab import CommandResult, command, environment
from tests.http_lab import KEY, api_of, assert_error, served, until_keys_are_known, with_key
from tests.lab import Lab
from tests.tuning_lab import CONFIG, DAYS, RETRIEVER, SINCE, UNTIL, configure, execution, known_log, scope, stored_log

EXECUTIONS = 900
PATH = f"/v1/retrievers/{RETRIEVER}/weights/whatif"
RANGE = {"since": SINCE.isoformat(), "until": UNTIL.isoformat()}


@pytest.fixture
async def fusion(lab: Lab) -> Lab:
    """A retriever whose weights were drawn, and the clicks that followed."""
    await stored_log(lab)
    await load(lab.database, "default", known_log(EXECUTIONS).events)
    return lab


@pytest.fixture
async def api(fusion: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on these tables."""
    async with api_of(with_key(fusion.settings), "reader") as client:
        yield client


async def run(lab: Lab, *arguments: str) -> CommandResult:
    given = ["learn", "whatif", RETRIEVER, *arguments]
    if "--days" not in arguments:
        given += ["--since", RANGE["since"], "--until", RANGE["until"]]
    return await asyncio.to_thread(command, *given, env=environment(lab.settings))


async def test_the_command_and_the_api_give_the_same_estimate(fusion: Lab, api: httpx.AsyncClient) -> None:
    await load(fusion.database, "default", [*execution(9_000, DAYS[0], {"context_level": "static"})], first=99_000)
    done = await run(fusion, "--decay", "0.94")
    assert done.returncode == 0, done.stderr
    for words in (
        "mean weights, as served and with the changed configuration",
        "reward per execution (click=1) with decay_factor 0.97 -> 0.94",
        "900 of 901 executions, 150 users; 95 % intervals",
        "left out: 1 (static weights were served)",
    ):
        assert words in done.stdout
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")] == [
        *("image", "text", "logged", "ips", "snips", "difference")
    ]
    assert "as if they were updated at midnight UTC" in done.stderr
    printed = json.loads((await run(fusion, "--set", "decay_factor=0.94", "--json")).stdout)
    answer = await api.post(PATH, json={"changes": {"decay_factor": 0.94}, **RANGE})
    assert answer.status_code == 200, answer.text
    assert answer.json() == printed
    assert printed["left_out"] == [{"reason": "static", "meaning": "static weights were served", "executions": 1}]
    assert printed["decisions"]["executions"] == EXECUTIONS
    other = {"changes": {"reward_map": {"click": 1, "purchase": 3}}, "measure": {"click": 2}, "max_reward": 1.5}
    by_options = await run(
        fusion,
        *("--reward-map", "click=1,purchase=3", "--measure", "click=2", "--max-reward", "1.5", "--json"),
    )
    doubled = await api.post(PATH, json={**other, **RANGE})
    assert doubled.json() == json.loads(by_options.stdout)
    assert doubled.json()["measure"] == {"rewards": {"click": 2.0}, "max_reward": 1.5}
    assert doubled.json()["logged"]["value"] == pytest.approx(1.5 * printed["logged"]["value"])


ERRORS: list[tuple[list[str], int, str]] = [
    ([], 2, "no change is given: name one by --set, --decay or --reward-map"),
    (["--set", "decay"], 2, "'decay' is not NAME=VALUE"),
    (["--set", "min_interactions=1", "--set", "min_interactions=2"], 2, "min_interactions is set twice"),
    (["--set", "decay_factor=1", "--decay", "1"], 2, "decay_factor is also in --set"),
    (["--set", "decay_factor=fast"], 2, "decay_factor: must be a number from 0.9 to 1"),
    (["--decay", "nan"], 2, "decay_factor: must be a number from 0.9 to 1"),
    (["--set", "rollout_pct=5"], 2, "rollout_pct: does not change learned weights"),
    (["--set", "decay=2"], 2, "did you mean decay_factor or decay_window_days?"),
    (["--set", "speed=5"], 2, "speed: is not a name of a learning configuration; known are algorithm"),
    (["--decay", "0.94", "--measure", "clik=1"], 2, "'clik' is not an interaction type"),
    (["--decay", "0.94", "--max-reward", "1"], 2, "is for --measure"),
    (["--decay", "0.94", "--min-ess", "899"], 1, "at least 899 is needed"),
    (["--decay", "0.94", "--until", "2020-01-01", "--days", "1"], 1, "showed no results"),
]
"""Arguments, exit code and message."""


async def test_errors_of_the_command(fusion: Lab) -> None:
    for arguments, code, says in ERRORS:
        done = await run(fusion, *arguments)
        assert done.returncode == code, (arguments, done.stderr)
        assert says in " ".join(done.stderr.replace("│", " ").split())
        assert "Traceback" not in done.stderr


async def test_errors_of_the_api(api: httpx.AsyncClient) -> None:
    async def post(body: dict[str, Any], path: str = PATH) -> httpx.Response:
        return await api.post(path, json=body)

    refused = assert_error(
        await post({"changes": {"decay_factor": 0.94}, "min_ess": 899, **RANGE}), 422, "ValidationError", "refused"
    )
    assert "at least 899 is needed" in refused["message"]
    for body, place in (
        ({"changes": {"decay_factor": 2}}, ["body", "changes", "decay_factor"]),
        ({"changes": {"speed": 2}}, ["body", "changes", "speed"]),
        ({"changes": {}, "max_reward": 1}, ["body", "max_reward"]),
        ({"changes": {}, "measure": {"clik": 1}}, ["body", "measure", "clik", "[key]"]),
        ({"changes": {}, "since": RANGE["until"], "until": RANGE["since"]}, ["body", "until"]),
        ({}, ["body", "changes"]),
    ):
        error = assert_error(await post(body), 422, "ValidationError")
        assert error["details"]["validation_errors"][0]["location"] == place
    nobody = await post({"changes": {}}, PATH.replace(RETRIEVER, "nobody"))
    assert "no learning configuration in force" in assert_error(nobody, 422, "ValidationError", "refused")["message"]
    assert_error(await api.post(f"/v1/analytics/retrievers/{RETRIEVER}/analyze-tuning?days=91"), 422, "ValidationError")


async def analyzed(lab: Lab, retriever: str = RETRIEVER, **options: Any) -> Any:
    """The answer of the published client."""
    settings = with_key(lab.settings)
    async with served(settings, "reader") as host:
        async with httpx.AsyncClient(base_url=host) as client:
            await until_keys_are_known(client)
        configuration = mixpeek.Configuration(host=host, access_token=KEY, api_key={"NamespaceHeader": "default"})
        calls = mixpeek.AnalyticsRetrieversApi(mixpeek.ApiClient(configuration))
        return await asyncio.to_thread(calls.analyze_for_tuning_analytics_retrievers, retriever, **options)


async def test_the_published_client_gets_recommendations_that_the_log_supports(lab: Lab) -> None:
    """The decay in force forgets too slowly: half of its half-life is recommended, and not twice of it."""
    await stored_log(lab)
    await load(lab.database, "default", known_log(2_000).events)
    found = await analyzed(lab, days=7)
    assert found.retriever_id == RETRIEVER
    assert (found.analysis_period.end - found.analysis_period.start).days == 7
    first, *others = found.recommendations
    assert (first.recommendation_type, first.current_value, first.recommended_value) == ("decay_factor", 0.97, 0.9409)
    assert first.expected_impact.startswith("+0.")
    assert first.confidence > 0.95
    assert "effective sample size" in first.reasoning
    assert ("decay_factor", 0.984886) not in [(each.recommendation_type, each.recommended_value) for each in others]
    performance = found.current_performance
    assert performance["low"] < performance["reward_per_execution"] < performance["high"]
    tried = {(each["name"], json.dumps(each["changed"])): each for each in performance["changes"]}
    assert [name for name, _ in tried] == ["decay_factor"] * 2 + ["exploration_bonus"] * 2, "others change no weight"
    assert not tried["decay_factor", "0.984886"]["recommended"]
    wanted = WhatIfRequest(scope(), {"decay_factor": 0.9409})
    _, alone = await estimate_what_if(lab.settings, lab.database, wanted)
    together = tried["decay_factor", "0.9409"]
    assert together["difference"] == pytest.approx(alone.found.difference.value)
    assert together["low"] < alone.found.difference.low, "the intervals hold for all changes together"


async def test_the_published_client_gets_the_reason_where_the_log_cannot_say(lab: Lab) -> None:
    nothing = await analyzed(lab)
    assert nothing.recommendations == []
    assert "has no learning configuration in force" in nothing.current_performance["reason"]
    await configure(lab, CONFIG)
    await load(lab.database, "default", known_log(50).events)
    few = await analyzed(lab)
    assert few.recommendations == []
    assert "no change that is tried can be estimated" in few.current_performance["reason"]
    assert few.current_performance["decisions"] == 50
    assert few.current_performance["changes"] == []
    uncounted, *others = few.current_performance["refused"]
    assert "none of 50 executions has a decision" in uncounted["reason"]
    assert "what-if is possible from the day after the first counted day" in uncounted["reason"]
    assert len(uncounted["changes"]) > 1, "a reason is given once for all changes"
    assert uncounted["reason"] not in [each["reason"] for each in others]
