"""Client of Tally's HTTP API."""

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx

from console.settings import ConsoleSettings

log = logging.getLogger("tally.console")

NO_ANSWER = 0
"""Status of a problem that is no answer of the API: it cannot be reached, or takes too long."""


class ApiProblem(Exception):
    """Error answer of the API, or none. `status` is the HTTP status, or NO_ANSWER."""

    def __init__(self, status: int, message: str, *, code: str | None = None, request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.request_id = request_id


def segment(name: str) -> str:
    """Return a name as one segment of an address: a name of dots would otherwise lead to another address."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


class ApiClient:
    """Connections to the API, shared by all viewers. Each request carries the key of its viewer."""

    def __init__(self, settings: ConsoleSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Prepare connections over the network, or over a given transport."""
        self._settings = settings
        verify = ssl.create_default_context(cafile=settings.tls_ca_file) if settings.tls_ca_file else True
        self._http = httpx.AsyncClient(
            base_url=settings.api,
            timeout=settings.api_timeout_ms / 1000,
            limits=httpx.Limits(max_connections=settings.api_connections, keepalive_expiry=60),
            verify=verify,
            transport=transport,
            trust_env=False,  # a proxy of the environment must not receive API keys
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        key: str | None,
        namespace: str | None = None,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        """Return the JSON of the API's answer. Raises ApiProblem for an error, and when no answer comes."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        if namespace is not None:
            headers["X-Namespace"] = quote(namespace, safe="")
        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            request = self._http.build_request(method, path, params=given, json=body, headers=headers)
        except (ValueError, RecursionError, httpx.InvalidURL):
            raise ApiProblem(422, "A value has characters, numbers or a depth that cannot be sent.") from None
        try:
            async with asyncio.timeout(self._settings.api_timeout_ms / 1000):
                answer, content = await self._send(request)
        except (httpx.TimeoutException, TimeoutError):
            seconds = self._settings.api_timeout_ms / 1000
            raise ApiProblem(
                NO_ANSWER, f"The API did not answer within {seconds:g} s (TALLY_CONSOLE_API_TIMEOUT_MS)."
            ) from None
        except httpx.HTTPError:
            log.warning("the API at %s does not answer; the viewer sees an error", self._settings.api)
            raise ApiProblem(NO_ANSWER, "The API does not answer (TALLY_CONSOLE_API).") from None
        return _value(answer, content)

    async def _send(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        answer = await self._http.send(request, stream=True)
        try:
            return answer, await self._read(answer)
        finally:
            await answer.aclose()

    async def _read(self, answer: httpx.Response) -> bytes:
        """Read a body within the bound."""
        parts, size = [], 0
        async for part in answer.aiter_bytes():
            size += len(part)
            if size > self._settings.api_answer_bytes:
                raise ApiProblem(
                    422,
                    f"The answer has more than {self._settings.api_answer_bytes:,} bytes "
                    "(TALLY_CONSOLE_API_ANSWER_BYTES): choose a smaller range or limit.",
                )
            parts.append(part)
        return b"".join(parts)


def _value(answer: httpx.Response, content: bytes) -> Any:
    try:
        value = json.loads(content) if content or answer.is_success else None
    except (ValueError, RecursionError):
        raise _not_tally() from None
    if answer.is_success:
        return value
    if not answer.is_error:
        raise _not_tally()
    error = value.get("error") if isinstance(value, dict) else None
    error = error if isinstance(error, dict) else {}
    raise ApiProblem(
        answer.status_code,
        str(error.get("message") or f"The API answered with status {answer.status_code}."),
        code=error.get("code"),
        request_id=answer.headers.get("X-Request-Id", ""),
    )


def _not_tally() -> ApiProblem:
    return ApiProblem(NO_ANSWER, "The address in TALLY_CONSOLE_API does not answer as Tally's API does.")
