"""Interleaving end to end: a draft over HTTP, its events through Kafka and the worker, and the result."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from runtime.settings import Settings
from tests.cli_lab import CommandResult, command, environment
from tests.crashes import crash_at
from tests.http_lab import PATH as EVENTS
from tests.http_lab import api_of, assert_error, with_key
from tests.lab import Lab
from tests.test_backup import rewind
from tests.test_deletion import delete

PATH = "/v1/interleavings"
BODY: dict[str, Any] = {
    "experiment": "ranker 2 β",
    "a": {"name": "old", "documents": ["s", "x", "y"]},
    "b": {"name": "new", "documents": ["s", "z", "w"]},
    "k": 4,
}
RESULT = f"{PATH}/ranker%202%20%CE%B2"


@pytest.fixture
def api_settings(lab: Lab) -> Settings:
    """Settings of the API, and of commands."""
    return with_key(lab.settings)


@pytest.fixture
async def api(api_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The API on this test's tables."""
    async with api_of(api_settings) as client:
        yield client


async def search(api: httpx.AsyncClient, execution: str, *teams: str) -> list[str]:
    """Show an interleaved execution, click on the first result of each team, and return the ids of the clicks."""
    found = (await api.post(PATH, json={**BODY, "execution_id": execution})).json()
    events = [(each, "impression") for each in found["results"]]
    events += [(next(each for each in found["results"] if each["team"] == team), "click") for team in teams]
    ids = []
    for each, kind in events:
        event = {"feature_id": each["feature_id"], "position": each["position"], "interaction_type": [kind]}
        sent = {**event, "execution_id": execution, "metadata": {"interleaving": each["token"]}}
        answer = await api.post(EVENTS, json=sent)
        assert answer.status_code == 200, answer.text
        ids.append(answer.json()["interaction_id"])
    return ids[len(found["results"]) :]


async def credit(api: httpx.AsyncClient) -> dict[str, Any]:
    """Return the result without its range, which ends now."""
    answer = await api.get(RESULT)
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name not in ("since", "until")}


async def test_credit_survives_crashes_redelivery_and_duplicates(lab: Lab, api: httpx.AsyncClient) -> None:
    for number, teams in enumerate([("a",), ("b",), ("b", "a"), ("both",), ()]):
        await search(api, f"e{number}", *teams)
        await search(api, f"e{number}", *teams)  # a user who reloads the page: the same draft, duplicate events
    with crash_at("stored"):
        await lab.drain()
    await lab.drain()
    found = await credit(api)
    assert (found["drafts"], found["wins_a"], found["wins_b"], found["ties"]) == (5, 1, 2, 2)
    assert (found["ties_with_shared_clicks"], found["tokens"]["invalid"]) == (1, 0)
    assert (found["rankings"], found["verdict"]) == ([{"a": "old", "b": "new"}], "undecided")
    assert found["preference_for_b"]["value"] == pytest.approx(2 / 3)
    await rewind(lab.settings, dict.fromkeys(range(lab.settings.partitions), 0))
    await lab.drain()
    assert await credit(api) == found, "the log read twice credits nothing twice"


async def test_an_erased_click_is_gone_from_the_result(lab: Lab, api: httpx.AsyncClient) -> None:
    first, _ = await search(api, "e1", "a", "b")
    (only,) = await search(api, "e2", "b")
    await lab.drain()
    assert (await credit(api))["wins_a"] == 1
    drafts = (await api.get(f"{RESULT}/drafts", params={"team": "a"})).json()["drafts"]
    assert [each["decided_by"]["interaction_id"] for each in drafts] == [first]
    for gone in (first, only):
        await delete(api, gone)
    found = await credit(api)
    assert (found["drafts"], found["wins_a"], found["wins_b"], found["ties"]) == (2, 0, 1, 1)


async def test_the_command_answers_as_the_api_does(lab: Lab, api: httpx.AsyncClient, api_settings: Settings) -> None:
    for number in range(3):
        await search(api, f"e{number}", *("b", "a")[: 2 if number == 0 else 1])
    await lab.drain()

    async def learn(*arguments: str, settings: Settings = api_settings) -> CommandResult:
        given = ("learn", "interleaving", BODY["experiment"], *arguments)
        return await asyncio.to_thread(command, *given, env=environment(settings))

    done = await learn("--json")
    answer = json.loads(done.stdout)
    assert {name: value for name, value in answer.items() if name not in ("since", "until")} == await credit(api)
    shown = await learn()
    assert (shown.returncode, shown.stdout.splitlines()[-1]) == (0, "undecided"), shown.stderr
    assert "3 of 3" in shown.stdout
    listed = await learn("--drafts", "2", "--team", "b")
    assert listed.stdout.count("int_") == 2
    everything = (await learn("--drafts", "3")).stdout
    rows = [[each.strip() for each in line.split("│")[1:-1]] for line in everything.splitlines() if "│" in line]
    assert sorted(row[6] for row in rows) == ["1", "1", "2"]
    assert {row[4] for row in rows} <= {"a", "b"}
    assert {row[7] for row in rows if row[6] == "2"} <= {"x (a)", "y (a)"}
    assert {row[7] for row in rows if row[6] == "1"} == {"-"}
    cursor = listed.stderr.split("--cursor ")[1].strip()
    rest = json.loads((await learn("--drafts", "2", "--cursor", cursor, "--json")).stdout)
    assert (len(rest["drafts"]), rest["next_cursor"]) == (1, None)
    without_key = await learn(settings=lab.settings.model_copy(update={"api_key": SecretStr("")}))
    assert without_key.returncode == 1
    assert "TALLY_API_KEY" in without_key.stderr
    assert (await learn("--team", "b")).returncode == 2
    assert (await learn("--since", "2026-01-02", "--until", "2026-01-01")).returncode == 2


async def test_a_draft_shows_both_rankings(shared_api: httpx.AsyncClient) -> None:
    body = {"experiment": "plain", "a": ["x", "y"], "b": ["y", "x", "z"], "k": 3}
    found = (await shared_api.post(PATH, json=body)).json()
    assert [each["position"] for each in found["results"]] == [0, 1, 2]
    assert {each["feature_id"] for each in found["results"]} == {"x", "y", "z"}
    assert found["results"][0]["team"] == found["first"]
    again = (await shared_api.post(PATH, json=body)).json()
    assert again["interleaving_id"] != found["interleaving_id"], "without an execution every request is a new draft"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"experiment": ""}, "body.experiment"),
        ({"experiment": "β" * 65}, "body.experiment: has 130 bytes, at most 128 are allowed"),
        *(({"experiment": name}, "body.experiment: has printable") for name in ("a/b", " a", "..", "a\nb")),
        ({"a": ["x", "x"]}, "body.a.documents: document 'x' is repeated"),
        ({"a": {"documents": [""]}}, "body.a.documents.0"),
        ({"a": {"documents": ["x" * 513]}}, "has 513 bytes"),
        ({"a": {"documents": [str(number) for number in range(1_001)]}}, "body.a.documents"),
        ({"a": {"name": "n" * 129, "documents": []}}, "body.a.name"),
        ({"b": "x"}, "body.b"),
        ({"b": None}, "body.b"),
        ({"k": 0}, "body.k"),
        ({"k": 1_001}, "body.k"),
        ({"k": "3"}, "body.k"),
        ({"execution_id": ""}, "body.execution_id"),
        ({"execution_id": "\ud800"}, "body.execution_id"),
        ({"user": "ada"}, "body.user"),
    ],
)
async def test_a_draft_that_cannot_be_made_names_its_reason(
    shared_api: httpx.AsyncClient, change: dict[str, Any], says: str
) -> None:
    answer = await shared_api.post(PATH, content=json.dumps({**BODY, **change}))
    assert says in assert_error(answer, 422, "ValidationError")["message"]


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("", {}, "no event of namespace default from"),
        ("", {"since": "2026-01-02", "until": "2026-01-01"}, "query.until"),
        ("", {"since": "yesterday"}, "query.since"),
        ("", {"interaction_type": "fly"}, "query.interaction_type"),
        ("", {"team": "a"}, "query.team"),
        ("/drafts", {"team": "both"}, "query.team"),
        ("/drafts", {"limit": 0}, "query.limit"),
        ("/drafts", {"limit": 1_001}, "query.limit"),
        ("/drafts", {"cursor": "x" * 65}, "query.cursor"),
    ],
)
async def test_a_result_that_cannot_be_given_names_its_reason(
    shared_api: httpx.AsyncClient, path: str, query: dict[str, Any], says: str
) -> None:
    answer = await shared_api.get(f"{PATH}/unknown{path}", params=query)
    code = "refused" if not query else None
    assert says in assert_error(answer, 422, "ValidationError", code)["message"]


async def test_a_page_after_the_end_is_empty(shared_api: httpx.AsyncClient) -> None:
    assert (await shared_api.get(f"{PATH}/unknown/drafts")).json() == {"drafts": [], "next_cursor": None}


async def test_drafts_need_the_scope_write(shared_api: httpx.AsyncClient) -> None:
    for method, path in (("POST", PATH), ("GET", RESULT), ("GET", f"{RESULT}/drafts")):
        assert (await shared_api.request(method, path, headers={"Authorization": "Bearer no"})).status_code == 401
