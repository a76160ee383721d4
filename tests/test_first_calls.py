"""Usual mistakes of a first call are answered with what to do instead."""

import json
from typing import Any

import httpx
import pytest

from tests.http_lab import BEARER, EVENT, PATH

BATCH = f'send {{"interactions": [...]}} to {PATH}/batch'


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "advice"),
    [
        ("POST", PATH, {}, EVENT, 401, "as `Authorization: Bearer <key>` (`tally keys create` makes one)"),
        ("POST", PATH, {"Authorization": "a-secret-key"}, EVENT, 401, "`Authorization: Bearer <key>`"),
        ("POST", PATH, BEARER | {"X-Namespace": "nowhere"}, EVENT, 403, "name one of its own (default, shop)"),
        ("POST", "/interactions", BEARER, EVENT, 404, f"interactions are at {PATH}, all endpoints at /docs"),
        ("POST", f"{PATH}/", BEARER, EVENT, 404, f"interactions are at {PATH}"),
        ("GET", PATH, BEARER, None, 405, f"it has POST (lists: POST {PATH}/list)"),
        ("PUT", "/v1/health", BEARER, EVENT, 405, "it has GET, HEAD"),
        ("POST", PATH, BEARER, [EVENT], 422, BATCH),
        ("POST", PATH, BEARER, {"interactions": [EVENT]}, 422, BATCH),
        ("POST", f"{PATH}/batch", BEARER, EVENT, 422, 'a batch is {"interactions": [...]}'),
        ("POST", PATH, BEARER, "", 400, "a JSON object is expected"),
        ("POST", PATH, BEARER, "feature_id=d", 400, "is not JSON"),
        ("POST", PATH, BEARER, EVENT | {"occurred_at": 1_764_300_000}, 422, "such as 2026-11-27T10:00:00Z"),
        ("POST", PATH, BEARER, EVENT | {"occurred_at": "yesterday"}, 422, "such as 2026-11-27T10:00:00Z"),
    ],
)
async def test_an_error_says_what_to_do(
    shared_api: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], body: Any, status: int, advice: str
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    answer = await shared_api.send(httpx.Request(method, f"http://t{path}", headers=headers, content=content))
    assert answer.status_code == status, answer.text
    assert advice in answer.json()["error"]["message"]
