"""Requests about dead letters, and rejected records."""

from typing import Any

import httpx

from schemas.wire import encode_headers
from tests.lab import Lab, Place, as_json

LETTERS = "/v1/dead-letters"
DEFAULT = encode_headers("default")
BAD = as_json("doc-1", "exec-1", position="first", user_id="ada")
FIX = {"position": 1}


async def asked(api: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await api.get(f"{LETTERS}{path}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def replayed(api: httpx.AsyncClient, **body: Any) -> Any:
    answer = await api.post(f"{LETTERS}/replay", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def put_bad(lab: Lab, *values: bytes, namespace: str = "default") -> list[Place]:
    """Put records of a namespace on the topic, and let a worker reject them."""
    places = [await lab.put(value, headers=encode_headers(namespace)) for value in values]
    await lab.drain()
    return places
