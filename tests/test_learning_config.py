"""Learning configurations: what is accepted, versions, conflicts, and the endpoints."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.weights.config_text import (
    NAMES,
    ConfigError,
    accepted,
    as_values,
    differences,
    parse_assignment,
    parse_config,
)
from learning.weights.configs import (
    ConfigConflict,
    LearningConfigVersions,
    TooManyConfigs,
    UnknownConfig,
)
from runtime.learning_configs import LearningConfigs
from schemas.event_time import iso_ms
from schemas.learning_config import LearningConfig
from tests.http_lab import BEARER, api_of, assert_error, with_key
from tests.lab import Lab

NUMBERS = itertools.count()


def retriever() -> str:
    """A retriever that no other test has."""
    return f"retriever-{next(NUMBERS)}"


def path(name: str) -> str:
    return f"/v1/retrievers/{name}/learning-config"


@pytest.fixture
def versions(shared_lab: Lab) -> LearningConfigVersions:
    return LearningConfigVersions(shared_lab.settings, shared_lab.database, "default")


@pytest.fixture(scope="module")
async def api(shared_lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    async with api_of(with_key(shared_lab.settings), "reader") as client:
        yield client


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "a JSON object with algorithm"),
        ({"prior_alpha": 0.05}, "prior_alpha: must be a number from 0.1 to 1,000,000"),
        ({"prior_beta": float("nan")}, "prior_beta: must be"),
        ({"min_interactions": True}, "min_interactions: must be a whole number from 1 to 100"),
        ({"min_interactions": "5"}, "min_interactions: must be"),
        ({"shadow_mode": 1}, "shadow_mode: must be true or false"),
        ({"algorithm": "greedy"}, "algorithm: must be thompson_sampling"),
        ({"reward_signal": "love"}, "reward_signal: must be one of impression, view, click"),
        ({"reward_map": {}}, "reward_map: must be null, or"),
        ({"reward_map": {"love": 1}}, "reward_map.love: Input should be 'impression'"),
        ({"reward_map": {"click": 2_000}}, "reward_map.click: Input should be less than"),
        ({"demographic_features": ["a"]}, "'a' is not INPUT.name or CONTEXT.name"),
        ({"context_features": ["INPUT.x"]}, "context_features.0: Input should be 'INPUT.user_id'"),
        ({"min_interaction": 1}, "(did you mean min_interactions?); known are algorithm, context_features"),
        ({"a\ud800": 1}, "Invalid JSON"),
    ],
)
def test_an_error_names_the_field_and_what_it_accepts(value: Any, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(value)
    assert says in str(raised.value)


@given(st.dictionaries(st.sampled_from([*NAMES, "other"]), st.none() | st.booleans() | st.floats() | st.text()))
def test_any_object_is_a_configuration_or_an_error(value: dict[str, Any]) -> None:
    try:
        found = parse_config(value)
    except ConfigError as error:
        assert all(set(each.location[:1]) <= set(value) for each in error.problems)
    else:
        assert parse_config(as_values(found)) == found
        assert parse_config(json.loads(json.dumps(as_values(found)))) == found


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("min_interactions = 10", ("min_interactions", 10)),
        ("reward_signal=purchase", ("reward_signal", "purchase")),
        ("reward_map=click=1,purchase=3", ("reward_map", {"click": 1.0, "purchase": 3.0})),
        ('reward_map={"click": 1}', ("reward_map", {"click": 1})),
        ("reward_map=null", ("reward_map", None)),
        ("demographic_features=INPUT.a, CONTEXT.b", ("demographic_features", ["INPUT.a", "CONTEXT.b"])),
        ("context_features=", ("context_features", [])),
    ],
)
def test_an_assignment_is_read(text: str, pair: tuple[str, Any]) -> None:
    assert parse_assignment(text) == pair


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("min_interactions", "is not NAME=VALUE"),
        ("minimum=1", "known are"),
        ("reward_map=click=x", "is not TYPE=NUMBER"),
    ],
)
def test_an_assignment_that_is_not_accepted(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_assignment(text)
    assert says in str(raised.value)


def test_the_page_names_what_each_name_accepts_and_its_default() -> None:
    text = (Path(__file__).parent.parent / "docs/learning/weights-configuration.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    defaults = as_values(LearningConfig())
    shown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in defaults.items()}
    expected = [[f"| `{name}`", accepted(name), shown[name].removesuffix(".0")] for name in NAMES]
    expected[NAMES.index("reward_signal")][1] = "an interaction type"
    assert [row[:3] for row in rows] == expected


def test_differences_are_of_names_with_other_values() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == {"b": (2, 3)}
    assert differences(None, {"a": 1, "b": None}) == {"a": (None, 1)}
    assert differences({"a": 1}, None) == {"a": (1, None)}


async def test_versions_follow_one_another(versions: LearningConfigVersions, shared_lab: Lab) -> None:
    name = retriever()
    with pytest.raises(UnknownConfig):
        await versions.get(name)
    first = await versions.put(name, LearningConfig())
    assert first.version.version == 1
    assert first.changed["min_interactions"] == (None, 5)
    again = await versions.put(name, LearningConfig(reward_map=None))
    assert (again.version, again.changed) == (first.version, {}), "equal content makes no new version"
    second = await versions.put(name, LearningConfig(min_interactions=7), after=1)
    assert second.changed == {"min_interactions": (5, 7)}
    with pytest.raises(ConfigConflict):
        await versions.put(name, LearningConfig(), after=1)
    await versions.delete(name)
    with pytest.raises(UnknownConfig):
        await versions.delete(name)
    fourth = await versions.put(name, LearningConfig(min_interactions=7))
    assert fourth.version.version == 4
    found = await versions.history(name, 10)
    assert [each.version for each in found] == [4, 3, 2, 1]
    assert [each.until for each in found] == [None, *(each.changed_at for each in found[:3])]
    assert [each.values is None for each in found] == [False, True, False, False]
    assert [each.version for each in await versions.history(name, 2)] == [4, 3]
    for each in found:
        assert await versions.at(name, each.changed_at) == each, "in force from its own time on"
    assert await versions.at(name, found[-1].changed_at - timedelta(milliseconds=1)) is None
    known = LearningConfigs(shared_lab.settings, shared_lab.database)
    await known.refresh()
    in_force = known.in_force["default", name]
    assert (in_force.version, in_force.first_version, in_force.config.min_interactions) == (4, 4, 7)


async def test_of_simultaneous_changes_one_is_in_force_and_the_others_know(versions: LearningConfigVersions) -> None:
    name = retriever()
    puts = [versions.put(name, LearningConfig(min_interactions=number)) for number in range(1, 9)]
    results = await asyncio.gather(*puts, return_exceptions=True)
    kept = [each for each in results if not isinstance(each, BaseException)]
    assert {type(each) for each in results if isinstance(each, BaseException)} <= {ConfigConflict}
    found = await versions.history(name, 100)
    assert sorted(each.version.version for each in kept) == [each.version for each in reversed(found)]
    stored = {each.version: each.values for each in found}
    assert all(stored[each.version.version] == each.version.values for each in kept)


async def test_a_change_after_an_older_version_is_refused(versions: LearningConfigVersions) -> None:
    """Two changes have read the same version: the one that is stored first stays."""
    name = retriever()
    for number in (1, 2):
        read = await versions.newest(name)
        kept = await versions.put(name, LearningConfig(min_interactions=number))
        with pytest.raises(ConfigConflict):
            await versions._store(name, read, as_values(LearningConfig(min_interactions=9)))
        with pytest.raises(ConfigConflict):
            await versions._store(name, read, None)
        assert await versions.get(name) == kept.version


async def test_the_number_of_configurations_is_bounded(lab: Lab) -> None:
    settings = lab.settings.model_copy(update={"learning_configs": 1})
    versions = LearningConfigVersions(settings, lab.database, "default")
    await versions.put("a", LearningConfig())
    with pytest.raises(TooManyConfigs, match="TALLY_LEARNING_CONFIGS"):
        await versions.put("b", LearningConfig())
    await versions.put("a", LearningConfig(min_interactions=2))
    await versions.delete("a")
    await versions.put("b", LearningConfig())


async def test_a_configuration_of_a_newer_version_can_be_read_and_replaced(lab: Lab) -> None:
    versions = LearningConfigVersions(lab.settings, lab.database, "default")
    row = {"namespace": "default", "retriever_id": "r", "version": 1, "config": '{"new": 1}', "changed_at": 1}
    await lab.database.insert_row("learning_configs", row, "token")
    assert (await versions.get("r")).values == {"new": 1}
    changed = (await versions.put("r", LearningConfig())).changed
    assert changed["new"] == (1, None)


async def test_a_configuration_over_http(api: httpx.AsyncClient) -> None:
    url, before = path(retriever()), datetime.now(UTC)
    assert_error(await api.get(url), 404, "NotFoundError", "unknown_config")
    assert_error(await api.get(f"{url}/history"), 404, "NotFoundError", "unknown_config")
    put = (await api.put(url, json={"min_interactions": 10, "reward_map": {"click": 1, "purchase": 3}})).json()
    assert (put["version"], put["until"]) == (1, None)
    assert put["changed"]["min_interactions"] == {"before": None, "after": 10}
    got = (await api.get(url)).json()
    assert got == {name: value for name, value in put.items() if name != "changed"}
    assert got["learning_config"]["reward_map"] == {"click": 1.0, "purchase": 3.0}
    assert (await api.put(url, json=got["learning_config"])).json()["changed"] == {}
    assert (await api.put(url, json={})).json()["changed"]["reward_map"]["after"] is None
    deleted = (await api.delete(url)).json()
    assert (deleted["version"], deleted["learning_config"]) == (3, None)
    assert_error(await api.delete(url), 404, "NotFoundError", "unknown_config")
    history = (await api.get(f"{url}/history", params={"limit": 2})).json()
    assert [each["version"] for each in history["versions"]] == [3, 2]
    assert history["truncated"] is True
    assert (await api.get(f"{url}/history", params={"limit": 3})).json()["truncated"] is False
    at = (await api.get(f"{url}/history", params={"at": put["changed_at"]})).json()["versions"]
    assert [(each["version"], each["until"]) for each in at] == [(1, history["versions"][1]["changed_at"])]
    early = iso_ms(before - timedelta(days=1))
    assert (await api.get(f"{url}/history", params={"at": early})).json()["versions"] == []


async def test_errors_over_http(api: httpx.AsyncClient) -> None:
    url = path(retriever())
    error = assert_error(await api.put(url, json={"prior_alpha": 0, "x": 1}), 422, "ValidationError")
    found = {tuple(each["location"]): each["message"] for each in error["details"]["validation_errors"]}
    assert found["body", "prior_alpha"] == "must be a number from 0.1 to 1,000,000"
    assert "known are algorithm" in found["body", "x"]
    assert_error(await api.put(url, json=[1]), 422, "ValidationError")
    assert_error(await api.put(url, content=b"{"), 400, "BadRequestError")
    assert_error(await api.get(f"{url}/history", params={"limit": 0}), 422, "ValidationError")
    assert_error(await api.get(f"{url}/history", params={"when": "x"}), 422, "ValidationError")
    assert_error(await api.put(path("x" * 1_025), json={}), 422, "ValidationError")


async def test_a_namespace_has_configurations_of_its_own(api: httpx.AsyncClient) -> None:
    url = path(retriever())
    await api.put(url, json={})
    other = {**BEARER, "X-Namespace": "shop"}
    assert_error(await api.get(url, headers=other), 404, "NotFoundError", "unknown_config")
