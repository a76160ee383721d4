"""Judgments over HTTP: those of the command, of the key's namespace alone, limited."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.http_lab import BEARER, api_of, with_key
from tests.judgments_lab import judged, stored
from tests.lab import Lab

RANGE = {"since": "2026-03-01", "until": "2026-04-01"}
PATH = "/v1/retrievers/r/judgments"


@pytest.fixture(scope="module")
async def api(shared_lab: Lab) -> AsyncIterator[httpx.AsyncClient]:
    """The API on tables with four results in the namespace `shop`."""
    ios = {"metadata": {"device": "ios"}}
    await stored(
        shared_lab,
        "shop",
        *(("q", "a", "e1", "click", "share"), ("q", "b", "e1"), ("q", "b", "e2", "click")),
        *(("\u202eq", "c", "e3"), (None, "a", "e4")),
        **ios,
    )
    async with api_of(with_key(shared_lab.settings), "reader") as client:
        client.headers = httpx.Headers({**BEARER, "X-Namespace": "shop"})
        yield client


async def test_the_answer_has_the_judgments_of_the_namespace(shared_lab: Lab, api: httpx.AsyncClient) -> None:
    for query in ({}, {"method": "coec", "by": "metadata.device"}, {"method": "graded"}, {"min_impressions": 2}):
        answer = (await api.get(PATH, params={**RANGE, **query})).json()
        by = ("device",) if "by" in query else ()
        own: dict[str, Any] = {name: value for name, value in query.items() if name != "by"}
        found = await judged(shared_lab, "shop", "r", by=by, **own)
        assert answer["judgments"] == [row._asdict() for row in found.rows()]
        assert (answer["namespace"], answer["truncated"], answer["notes"]) == ("shop", False, found.notes)
    cut = (await api.get(PATH, params={**RANGE, "limit": 1})).json()
    assert (len(cut["judgments"]), cut["truncated"]) == (1, True)
    rewards = {"method": "graded", "rewards": "share=3", "grades": "1,2,2.5"}
    graded = (await api.get(PATH, params={**RANGE, **rewards})).json()
    assert [row["grade"] for row in graded["judgments"]] == [4, 0, 0]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({}, "showed no results from"),
        ({**RANGE, "method": "ips"}, "every result was shown at position 0"),
        ({**RANGE, "method": "best"}, "query.method"),
        ({**RANGE, "clip": "nan"}, "query.clip"),
        ({**RANGE, "prior_strength": 0}, "query.prior_strength"),
        ({**RANGE, "min_impressions": 0}, "query.min_impressions"),
        ({**RANGE, "limit": 1_000_000}, "query.limit"),
        ({**RANGE, "grades": "x"}, "query.grades: 'x' is not a list of numbers"),
        ({**RANGE, "grades": "nan,1,2"}, "query.grades: write three numbers"),
        ({**RANGE, "rewards": "fly=1"}, "query.rewards: 'fly' is not an interaction type"),
        ({**RANGE, "by": "device"}, "query.by"),
        ({"since": "2026-03-02", "until": "2026-03-01"}, "query.until"),
        ({**RANGE, "method": "ctr", "unknown": 1}, "query.unknown"),
    ],
)
async def test_a_request_that_cannot_be_answered_names_its_reason(
    api: httpx.AsyncClient, query: dict[str, Any], says: str
) -> None:
    answer = await api.get(PATH, params=query)
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["error"]["message"]


async def test_the_scope_read_is_required(api: httpx.AsyncClient) -> None:
    assert (await api.get(PATH, headers={"Authorization": "Bearer wrong"})).status_code == 401
    assert (await api.get(PATH, headers={"X-Namespace": "other"})).status_code == 403
