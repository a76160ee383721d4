"""Routes that are called most often, served before the framework's router, which takes most of a request's time.

A hot route is declared as an endpoint of the framework for the OpenAPI document, method and path. The router never
serves it: `HotRoutes` takes its requests from the middleware that all routes share.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Never, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
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
Query = TypeVar("Query", bound=BaseModel)


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
    """Parameter of the path or query, or header, validated by the annotation that declares it to OpenAPI."""

    def __init__(
        self, place: Literal["path", "query", "header"], name: str, annotation: Any, default: Any = _REQUIRED
    ) -> None:
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
            problems += _problems_of(error, self.place, self.name)
            return None


def _problems_of(error: ValidationError, *place: str) -> list[dict[str, Any]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [problem(each["type"], [*place, *each["loc"]], each["msg"]) for each in found]


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


def read_query(request: HotRequest, value: Parameter, model: type[Query]) -> tuple[Any, Query]:
    """Return the value of the path's parameter, and the query as the model that declares it to OpenAPI.

    Of a repeated query parameter the last value counts. Raises ApiError 422.
    """
    problems: list[dict[str, Any]] = []
    found = value.read(request.value, problems)
    text = request.scope["query_string"]
    try:
        query = model.model_validate(dict(QueryParams(text)) if text else {})
    except ValidationError as error:
        problems += [_with_names(each, model) for each in _problems_of(error, "query")]
    if problems:
        raise invalid(problems)
    return found, query


def _with_names(found: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return a problem; that of an unknown parameter names the known ones."""
    if found["type"] != "extra_forbidden":
        return found
    return {**found, "message": f"is not a parameter of this call; known are {', '.join(model.model_fields)}"}


def served_by(serve: Serve) -> Callable[[Endpoint], Endpoint]:
    """Declare that `serve` serves the requests of an endpoint.

    Its path has at most one parameter, as last segment or as the one before it.
    """

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


_Served = tuple[APIRoute, Serve]


class HotRoutes:
    """Innermost middleware. It serves hot routes, and passes on all other requests."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._literal: dict[tuple[str, str], _Served] = {}
        self._with_value: dict[tuple[str, str], _Served] = {}
        self._with_inner_value: dict[tuple[str, str, str], _Served] = {}
        for route in routes:
            served = route, getattr(route.endpoint, _SERVE)
            parent, _, last = route.path.rpartition("/")
            grandparent, _, inner = parent.rpartition("/")
            for method in route.methods or ():
                if last.startswith("{"):
                    self._with_value[method, parent] = served
                elif inner.startswith("{"):
                    self._with_inner_value[method, grandparent, last] = served
                else:
                    self._literal[method, route.path] = served

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
                grandparent, _, inner = parent.rpartition("/")
                found = self._with_inner_value.get((method, grandparent, value)) if inner else None
                value = inner
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
