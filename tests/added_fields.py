"""Check of two added fields on real parts, end to end: `tests.test_fields` runs it from a copy of the sources.

The copy differs by two lines of the model, `campaign_id: Id | None = None` and `shelf: Int32 | None = None`, and by a
migration with their columns. The stores are those that the environment's settings name.
"""

import asyncio
from typing import Any

import httpx

from runtime.clickhouse import connect
from runtime.settings import Settings
from schemas.identity import mint_id
from schemas.interaction import Interaction
from schemas.wire import encode_value
from tests.agreement import assert_agreement, base
from tests.bounds import OF_FIELDS
from tests.http_lab import EVENT, PATH, api_of, with_key
from tests.lab import Lab, as_json, lab_of
from tests.validating import is_sure

STORED = "SELECT feature_id, campaign_id, shelf FROM interactions FINAL ORDER BY feature_id"
UNUSUAL_TIME = "2026-01-01 00:00"
"""A form that the scanner leaves to the validator."""


def interaction(feature: str, campaign: str | None, shelf: int | None) -> Interaction:
    """Make an interaction with the added fields; type checkers know the model without them."""
    return Interaction.model_validate(EVENT | {"feature_id": feature, "campaign_id": campaign, "shelf": shelf})


def check_scanner() -> None:
    """The scanner accepts the fields, and agrees with the validator at their bounds."""
    value = encode_value(interaction("f", "é" * 256, 2**31 - 1), mint_id())
    assert is_sure(value, value.replace("é".encode() * 256, "é".encode() * 257)) == [True, False]
    for field in ("campaign_id", "shelf"):
        assert_agreement([base(**{field: text}) for text in OF_FIELDS[field]])


async def check_storing(lab: Lab) -> None:
    """Emitted fields are in their columns, read by the scanner or by the validator."""
    await lab.emit(interaction("a", "spring", 3), interaction("b", None, None))
    unusual = as_json("c", None, campaign_id="autumn", shelf=0, occurred_at=UNUSUAL_TIME)
    assert is_sure(unusual) == [False]
    await lab.put(unusual)
    assert (await lab.drain()).stored == 3
    assert await lab.rows(STORED) == [("a", "spring", 3), ("b", None, None), ("c", "autumn", 0)]


async def check_reading(lab: Lab, api: httpx.AsyncClient) -> None:
    """Records have the fields, filters and orders take them, and the collector accepts and refuses them."""
    record = (await created(api, {"feature_id": "d", "campaign_id": "winter", "shelf": 7})).json()
    assert (record["campaign_id"], record["shelf"]) == ("winter", 7)
    refused = await created(api, {"campaign_id": "x" * 513, "shelf": -1}, status=422)
    problems = refused.json()["error"]["details"]["validation_errors"]
    assert [each["location"] for each in problems] == [["body", "campaign_id"], ["body", "shelf"]]
    await lab.drain()
    found = (await api.get(f"{PATH}/{record['interaction_id']}")).json()
    assert (found["campaign_id"], found["shelf"]) == ("winter", 7)
    conditions = {"campaign_id": {"ends_with": "r"}, "shelf": {"gte": 1}}
    assert await listed(api, filters=conditions) == [("d", "winter", 7)]
    everything = [("d", "winter", 7), ("a", "spring", 3), ("c", "autumn", 0), ("b", None, None)]
    assert await listed(api, sort={"field": "shelf"}) == everything


async def created(api: httpx.AsyncClient, fields: dict[str, Any], status: int = 200) -> httpx.Response:
    """The answer to a single event."""
    answer = await api.post(PATH, json=EVENT | fields)
    assert answer.status_code == status, answer.text
    return answer


async def listed(api: httpx.AsyncClient, **body: Any) -> list[tuple[Any, ...]]:
    """The feature and the added fields of each record of a list."""
    answer = await api.post(f"{PATH}/list", json=body)
    assert answer.status_code == 200, answer.text
    return [(each["feature_id"], each["campaign_id"], each["shelf"]) for each in answer.json()["results"]]


async def check_erasing(lab: Lab, api: httpx.AsyncClient) -> None:
    """A deletion erases the fields of a stored event, and of one that is stored later."""
    (late,) = await lab.emit(interaction("e", "summer", 9))
    ((stored_id,),) = await lab.rows("SELECT interaction_id FROM interactions WHERE feature_id = 'a'")
    for interaction_id in (stored_id, late.interaction_id):
        assert (await api.delete(f"{PATH}/{interaction_id}")).status_code == 200
    await lab.drain()
    await lab.database.command("OPTIMIZE TABLE interactions FINAL")
    erased = "SELECT feature_id, campaign_id, shelf FROM interactions WHERE is_deleted ORDER BY feature_id"
    assert await lab.rows(erased) == [("a", None, None), ("e", None, None)]


async def main() -> None:
    """Run every check on a topic and tables of its own."""
    settings = with_key(Settings())
    check_scanner()
    async with lab_of(settings) as lab, api_of(settings) as api:
        await check_storing(lab)
        await check_reading(lab, api)
        await check_erasing(lab, api)
    async with connect(settings, database="default") as server:
        await server.command(f"DROP DATABASE {settings.database}")


if __name__ == "__main__":
    asyncio.run(main())
