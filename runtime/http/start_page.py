"""Answer at the path /: the console, or the addresses of the API's documentation."""

from importlib import metadata

from fastapi import APIRouter
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from runtime.http import paths
from runtime.settings import Settings


class StartResponse(BaseModel):
    """Program that answers, and addresses on the same host."""

    name: str = Field(examples=["Tally"])
    summary: str
    version: str
    documentation: str = Field(examples=[paths.DOCS])
    openapi: str = Field(examples=[paths.SCHEMA])
    health: str = Field(examples=[paths.HEALTH])
    ready: str = Field(examples=[paths.READY])
    interactions: str = Field(examples=[paths.INTERACTIONS])


def start_routes(settings: Settings) -> APIRouter:
    """Return the route of /."""
    router = APIRouter(tags=["operations"])
    answer = StartResponse(
        name="Tally",
        summary="Records what people do with search results, and accounts for every event.",
        version=metadata.version("tally-server"),
        documentation=paths.DOCS,
        openapi=paths.SCHEMA,
        health=paths.HEALTH,
        ready=paths.READY,
        interactions=paths.INTERACTIONS,
    ).model_dump()

    @router.get(
        paths.START,
        response_model=StartResponse,
        responses={307: {"description": "Redirection to the console (TALLY_CONSOLE_URL)"}},
    )
    async def start() -> Response:
        """Redirect to the console, or name the addresses of the API's documentation. Needs no key."""
        return RedirectResponse(settings.console_url, 307) if settings.console_url else JSONResponse(answer)

    return router
