"""Content for every screen of the console: searches, a comparison, a rejected event, and texts meant to do harm."""

import json
from typing import Any, NamedTuple

from schemas.interaction import MAX_ID_BYTES, MAX_OBJECT_BYTES, MAX_URI_BYTES, names_of
from tests.browser.console_lab import ConsoleSite
from tests.http_lab import EVENT, PATH
from tests.waiting import eventually_async

MARKUP = '"><img class=hostile src=x onerror=alert(1)><script class=hostile>alert(2)</script><b class=hostile>'
INVISIBLE = "\u202e\u2066\u200b\u0000\u001b[31m\ue000\ufeff"
HOSTILE = f"{MARKUP}{INVISIBLE}' onmouseover='alert(3) javascript:alert(4)"
HOSTILE_NAME = "\"><img class=hostile src=x onerror=alert(1)>' onclick='alert(2)"
"""The same without what names of experiments may not have: slashes and invisible characters."""
LIMITS = {"feature_uri": MAX_URI_BYTES}
SEARCHES = 40


def longest(most: int) -> str:
    """Return a hostile text of `most` bytes, without a place to break a line."""
    return HOSTILE + "x" * (most - len(HOSTILE.encode()))


class ConsoleContent(NamedTuple):
    """Ids and places of the content."""

    event: str
    hostile_event: str
    hostile_id: str
    letter: str
    hostile_letter: str
    unattributed_letter: str


async def fill(site: ConsoleSite) -> ConsoleContent:
    """Send the content, and wait for the outcome of all of it."""
    config = {"reward_map": {"click": 1}, "min_interactions": 1}
    assert (await site.api.put("/v1/retrievers/dense/learning-config", json=config)).is_success
    events = [each for number in range(SEARCHES) for each in _search(number)]
    for start in range(0, len(events), 100):
        answer = await site.api.post(f"{PATH}/batch", json={"interactions": events[start : start + 100]})
        assert answer.is_success, answer.text
    for experiment in ("new-ranker", HOSTILE_NAME):
        await _interleave(site, experiment)
    await site.key("read", name=HOSTILE_NAME)
    refused = await site.api.post(PATH, json=EVENT | {HOSTILE: 1})
    assert refused.status_code == 422
    letter = await site.put(json.dumps(EVENT | {"position": "first", "execution_id": "search-0"}).encode())
    every_text = dict.fromkeys(names_of("text", "types"), longest(MAX_OBJECT_BYTES)) | {HOSTILE: HOSTILE}
    headers = [(HOSTILE, HOSTILE.encode()), ("x", longest(4_096).encode())]
    hostile_letter = await site.put(json.dumps(every_text | {"position": 0}).encode(), headers)
    await site.put(json.dumps(EVENT | {HOSTILE: 1}).encode())
    unattributed = await site.put(HOSTILE.encode())
    hostile_event = await site.send(**hostile_event_fields())
    await site.send(**hostile_event_fields())
    event = await site.send(**_search(0)[0] | {"interaction_type": ["dwell"], "execution_id": "search-0"})
    await eventually_async(lambda: _is_settled(site))
    places = [f"{each.partition}/{each.offset}" for each in (letter, hostile_letter, unattributed)]
    return ConsoleContent(event, hostile_event, longest(MAX_ID_BYTES), *places)


def hostile_event_fields() -> dict[str, Any]:
    """Return a valid event with a hostile text in every field that takes one."""
    texts = {name: longest(LIMITS.get(name, MAX_ID_BYTES)) for name in names_of("text")}
    return texts | {"query_snapshot": {"text": HOSTILE, HOSTILE: HOSTILE}, "metadata": {HOSTILE: "x" * 60_000}}


async def _is_settled(site: ConsoleSite) -> bool:
    return bool((await site.api.get("/v1/pipeline")).json()["lag"] == 0)


def _search(number: int) -> list[dict[str, Any]]:
    """Return the events of a search: three impressions in changing order, and clicks on some."""
    retriever = ("dense", "sparse")[number % 2]
    about = {
        "execution_id": f"search-{number}",
        "retriever_id": retriever,
        "session_id": f"visit-{number // 4}",
        "user_id": f"user-{number % 7}",
        "query_snapshot": {"text": ("red shoes", "winter coat")[number // 2 % 2]},
        "feature_uri": f"{retriever}@v1/vector",
    }
    events = []
    for position in range(3):
        shown = about | {"feature_id": f"doc-{(position + number // 2) % 3}", "position": position}
        events.append(shown | {"interaction_type": ["impression"]})
        if number % (position + 2) == 0:
            events.append(shown | {"interaction_type": ["click"]})
    return events


async def _interleave(site: ConsoleSite, experiment: str) -> None:
    """Show an interleaved search, and click on its first result."""
    rankings = {"a": {"name": "old", "documents": ["s", "x"]}, "b": {"name": HOSTILE_NAME, "documents": ["z", "s"]}}
    execution = f"interleaved {experiment}"
    made = await site.api.post(
        "/v1/interleavings", json={"experiment": experiment, "k": 3, "execution_id": execution, **rankings}
    )
    assert made.is_success, made.text
    for each in made.json()["results"][:2]:
        shown = {"feature_id": each["feature_id"], "position": each["position"], "execution_id": execution}
        await site.send(**shown, interaction_type=["impression", "click"], metadata={"interleaving": each["token"]})
