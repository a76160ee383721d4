"""Routes that are called most often, served before the framework's router, which takes most of a request's time.

A hot route is declared as an endpoint of the framework for the OpenAPI document, method and path. The router never
serves it: `HotRoutes` takes its requests from the middleware that all routes share.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Never, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.errors import Unavailable
from runtime.http.answer import Answer
from runtime.http.body import read_body
from runtime.http.errors import ApiError, invalid, problem, store_unavailable
from runtime.http.headers import headers_of

_SERVE = "serve_hot"
_REQUIRED = object()

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class HotRequest:
    """Request of a hot route. `value` is the value of the path's parameter, empty without one."""

    __slots__ = ("headers", "receive", "scope", "value")

    def __init__(self, scope: Scope, receive: Receive, value: str) -> None:
        self.scope = scope
        self.receive = receive
        self.headers = headers_of(scope)
        self.value = value

    async def body(self, limit_bytes: int, timeout_ms: int, take: Callable[[int], None]) -> bytes:
        """Read the body like `read_body`."""
        return await read_body(self.scope, self.receive, limit_bytes, timeout_ms, take)


Serve = Callable[[HotRequest], Awaitable[Answer]]


class Parameter:
    """Query parameter or header, validated by the annotation that declares it to OpenAPI."""

    def __init__(self, place: Literal["query", "header"], name: str, annotation: Any, default: Any = _REQUIRED) -> None:
        self.place = place
        self.name = name
        self.default = default
        self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)

    def read(self, given: str | None, problems: list[dict[str, Any]]) -> Any:
        """Return the validated value. Append to `problems` what is wrong with it, in the framework's words."""
        if given is None:
            if self.default is _REQUIRED:
                problems.append(problem("missing", [self.place, self.name], "Field required"))
            return self.default
        try:
            return self._adapter.validate_python(given)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            problems += [problem(each["type"], [self.place, self.name, *each["loc"]], each["msg"]) for each in found]
            return None


def read_parameters(request: HotRequest, parameters: Sequence[Parameter]) -> list[Any]:
    """Return the values of parameters, those of the query first in `parameters`. Raises ApiError 422.

    Of a repeated query parameter the last value counts, of a repeated header the first.
    """
    text = request.scope["query_string"]
    query = QueryParams(text) if text else {}
    problems: list[dict[str, Any]] = []
    values = [
        each.read((query if each.place == "query" else request.headers).get(each.name), problems) for each in parameters
    ]
    if problems:
        raise invalid(problems)
    return values


def served_by(serve: Serve) -> Callable[[Endpoint], Endpoint]:
    """Declare that `serve` serves the requests of an endpoint. Its path has at most one parameter, as last segment."""

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _SERVE, serve)
        return endpoint

    return declare


def declared_only(*_parameters: object) -> Never:
    """End a call of an endpoint that is declared for the OpenAPI document only."""
    raise AssertionError("a hot route was served by the router")


def hot_routes_of(router: APIRouter) -> list[APIRoute]:
    """Return the routes of a router that are declared hot."""
    return [each for each in router.routes if isinstance(each, APIRoute) and hasattr(each.endpoint, _SERVE)]


class HotRoutes:
    """Innermost middleware. It serves hot routes, and passes on all other requests."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._literal: dict[tuple[str, str], tuple[APIRoute, Serve]] = {}
        self._with_value: dict[tuple[str, str], tuple[APIRoute, Serve]] = {}
        for route in routes:
            parent, _, last = route.path.rpartition("/")
            table, path = (self._with_value, parent) if last.startswith("{") else (self._literal, route.path)
            table |= {(method, path): (route, getattr(route.endpoint, _SERVE)) for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        found, value = self._literal.get((method, path)), ""
        if found is None:
            parent, _, value = path.rpartition("/")
            found = self._with_value.get((method, parent)) if value else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], serve = found
        try:
            answer = await serve(HotRequest(scope, receive, value))
        except ApiError as error:
            answer = error.answer()
        except Unavailable as error:
            answer = store_unavailable(error).answer()
        await answer.send(send)
