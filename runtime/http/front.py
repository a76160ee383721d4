"""The application as the server sees it: the middleware of all routes, then hot routes, then the framework."""

from collections.abc import Collection
from contextlib import suppress

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.http.hosts import AllowedHosts
from runtime.http.middleware import REQUEST_ID, HeadAsGet, RequestMiddleware
from runtime.http.origins import serialized_origin
from runtime.settings import Settings
from runtime.traces import Traces

EXPOSED_HEADERS = (
    REQUEST_ID,
    "X-Interaction-Id",
    "X-Duplicate-Of",
    "X-Outcome",
    "Link",
    "Retry-After",
    "Preference-Applied",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
)


class Api(FastAPI):
    """Application with its own middleware before the framework's, which hot routes never enter."""

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the application's start and stop."""
        await (self.front if scope["type"] == "http" else self.by_framework)(scope, receive, send)

    async def by_framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by the framework's router."""
        await super().__call__(scope, receive, send)


def with_middleware(served: ASGIApp, settings: Settings, hosts: Collection[str], traces: Traces) -> RequestMiddleware:
    """Return an application with the middleware of all routes around it, the outermost last."""
    if settings.cors_origins:
        served = _Cors(
            served,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Prefer", "X-Namespace", REQUEST_ID],
            expose_headers=EXPOSED_HEADERS,
        )
    served = HeadAsGet(served)
    if hosts:
        served = AllowedHosts(served, names=hosts)
    return RequestMiddleware(
        served, max_in_flight=settings.http_in_flight, access_log=settings.http_access_log, traces=traces
    )


class _Cors(CORSMiddleware):
    """Middleware that allows pages of TALLY_CORS_ORIGINS, in any spelling of the origin."""

    def is_allowed_origin(self, origin: str) -> bool:
        """Return whether pages of this origin may call the API."""
        with suppress(ValueError):
            origin = serialized_origin(origin)
        return super().is_allowed_origin(origin)
