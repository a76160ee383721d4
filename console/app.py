"""The console as an application: routes, templates and assets."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from console import access, screens
from console.client import ApiClient, ApiProblem
from console.navigation import SCREENS
from console.security import SecurityMiddleware
from console.sessions import SessionCookies
from console.settings import ConsoleSettings
from console.text import FORMATS
from console.view import Console

STATIC = Path(__file__).parent / "static"


class _Assets(StaticFiles):
    """Assets under an address that changes with their content."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return an asset, which browsers may keep."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def create_app(settings: ConsoleSettings, transport: httpx.AsyncBaseTransport | None = None) -> Starlette:
    """Return the application. `transport` carries its requests to the API instead of the network."""
    version = _version_of_assets()
    templates = Environment(
        loader=PackageLoader("console"),
        autoescape=select_autoescape(["html"], default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= FORMATS
    templates.globals |= {
        "screens": SCREENS,
        "assets": f"/assets/{version}",
        "settings": settings,
        "docs": f"{settings.api}{settings.docs}" if settings.docs.startswith("/") else settings.docs,
    }
    api = ApiClient(settings, transport)
    secrets = [each.get_secret_value() for each in settings.secrets]
    console = Console(settings, api, SessionCookies(secrets, settings.session_ms), templates)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await api.close()

    app = Starlette(
        routes=[
            *access.ROUTES,
            *screens.ROUTES,
            Route("/health", _health),
            Route("/ready", _ready),
            Mount(f"/assets/{version}", _Assets(directory=STATIC)),
        ],
        middleware=[
            Middleware(SecurityMiddleware, max_body_bytes=settings.form_bytes, max_in_flight=settings.connections)
        ],
        exception_handlers={404: access.not_found},
        lifespan=lifespan,
    )
    app.state.console = console
    return app


def _version_of_assets() -> str:
    found = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(request: Request) -> Response:
    """Answer 200 when the API answers, 503 otherwise."""
    try:
        await request.app.state.console.api.call("GET", "/v1/health", key=None)
    except ApiProblem as problem:
        return JSONResponse({"ready": False, "problem": problem.message}, 503)
    return JSONResponse({"ready": True})
