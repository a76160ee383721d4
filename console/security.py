"""Security of every response: headers, and the origin of requests that change something."""

import asyncio
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content security policy: nothing inline, nothing from another host, no frame around a page."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any referrer browsers send `Origin: null` with forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
BODY_TIMEOUT_S = 10.0
"""Time for a form to arrive."""
_SAFE = ("GET", "HEAD")
_FAILED = """<div class="problem" role="alert"><h2>The console failed</h2><p>Its log has the reason. If the console
and the API are of different versions, update the older one.</p></div>"""

log = logging.getLogger("tally.console")


class _SlowBodyError(Exception):
    """A body that does not arrive in time."""


class SecurityMiddleware:
    """Middleware that adds the headers, refuses requests of other sites, and bounds bodies and requests in flight."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_in_flight: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_in_flight = max_in_flight
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            has_started = True
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await refused(scope, receive, send_with_headers)
            return
        self._in_flight += 1
        try:
            await self._app(scope, _within(receive, BODY_TIMEOUT_S), send_with_headers)
        except ClientDisconnect:
            return
        except _SlowBodyError:
            text = f"the form did not arrive within {BODY_TIMEOUT_S:g} s"
            await PlainTextResponse(text, 408, {"Connection": "close"})(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s %r failed; the viewer sees an error", scope["method"], scope["path"])
            if has_started:
                raise
            await HTMLResponse(_FAILED, 500)(scope, receive, send_with_headers)
        finally:
            self._in_flight -= 1

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if self._in_flight >= self._max_in_flight:
            text = "too many requests in flight (TALLY_CONSOLE_CONNECTIONS): retry shortly"
            return PlainTextResponse(text, 503, {"Retry-After": "1"})
        if scope["method"] in _SAFE:
            return None
        if not _is_same_origin(headers):
            return PlainTextResponse("this request comes from another site", 403)
        return self._refusal_of_form(headers)

    def _refusal_of_form(self, headers: Headers) -> PlainTextResponse | None:
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit():
            return PlainTextResponse("a form needs a Content-Length", 411)
        if int(length) > self._max_body_bytes:
            text = f"the form is larger than {self._max_body_bytes} bytes (TALLY_CONSOLE_FORM_BYTES)"
            return PlainTextResponse(text, 413)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if int(length) and kind != "application/x-www-form-urlencoded":
            return PlainTextResponse("a form is application/x-www-form-urlencoded", 415)
        return None


def _within(receive: Receive, timeout_s: float) -> Receive:
    """Return a `receive` that gives the body up after a time: each slow form would keep a place in flight."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    has_ended = False

    async def receive_within() -> Message:
        nonlocal has_ended
        if has_ended:  # the next message is that of a client that has gone
            return await receive()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise _SlowBodyError from None
        has_ended = not message.get("more_body", False)
        return message

    return receive_within


def _is_same_origin(headers: Headers) -> bool:
    """Return whether a page of the console made the request. Browsers send one of both headers, and pages cannot."""
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
