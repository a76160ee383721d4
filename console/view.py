"""View: one request of a viewer who has signed in, and the responses to it."""

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from console.client import NO_ANSWER, ApiClient, ApiProblem
from console.sessions import SessionCookies, cookie_of
from console.settings import ConsoleSettings

PageValues = Mapping[str, Any]
MAX_NAMESPACE_CHARACTERS = 128
SIGN_IN = "/sign-in"
SIGN_IN_HEADER = "X-Sign-In"
"""Header of a response to a script: the page has to go to this address."""


class Console(NamedTuple):
    """Parts that all requests of a process share."""

    settings: ConsoleSettings
    api: ApiClient
    sessions: SessionCookies
    templates: Environment


class SessionEndedError(Exception):
    """No session, or one whose key the API does not know any more."""


class View:
    """One request with the viewer's key and namespace."""

    def __init__(self, request: Request) -> None:
        """Open the session. Raises SessionEndedError."""
        self.request = request
        self.console: Console = request.app.state.console
        session = self.console.sessions.open(request.cookies.get(cookie_of(request)))
        if session is None:
            raise SessionEndedError
        self._key = session.key
        self.chosen = request.query_params.get("ns", "")[:MAX_NAMESPACE_CHARACTERS]
        """Namespace that the viewer has chosen; empty: none."""
        self.namespace = self.chosen or session.namespace
        """Namespace of the page."""

    @property
    def query(self) -> Mapping[str, str]:
        """Query parameters of the request."""
        return self.request.query_params

    async def call(
        self,
        method: str,
        path: str,
        query: PageValues | None = None,
        body: Any = None,
        *,
        in_namespace: bool = True,
    ) -> Any:
        """Call the API with the viewer's key, in the page's namespace or in the first one of the key.

        Raises ApiProblem, and SessionEndedError when the key is not valid.
        """
        namespace = self.namespace if in_namespace else None
        try:
            return await self.console.api.call(method, path, key=self._key, namespace=namespace, query=query, body=body)
        except ApiProblem as problem:
            if problem.status == 401:  # noqa: PLR2004
                raise SessionEndedError from None
            raise

    async def get(self, path: str, **query: Any) -> Any:
        """Get from the API; empty texts are left out. Raises as `call` does."""
        return await self.call("GET", path, {name: value for name, value in query.items() if value != ""})

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Post to the API. Raises as `call` does."""
        return await self.call("POST", path, query, body)

    def url(self, path: str, **query: Any) -> str:
        """Return the address of a page or panel of the console, in the chosen namespace."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        if self.chosen:
            given["ns"] = self.chosen
        return f"{path}?{urlencode(given)}" if given else path

    def same_query(self, path: str, *names: str) -> str:
        """Return the address of a path with these parameters of the present query."""
        return self.url(path, **{name: self.query.get(name) for name in names})

    def render(
        self, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> Response:
        """Return a template as the response."""
        page = self.console.templates.get_template(template)
        return HTMLResponse(page.render(view=self, request=self.request, **values), status, headers)


Handler = Callable[[View], Awaitable[Response | PageValues]]
RouteHandler = Callable[[Request], Awaitable[Response]]


def page(template: str) -> Callable[[Handler], RouteHandler]:
    """Return a decorator: a handler of a page, whose values go to a template."""
    return _endpoint(template, "problem_page.html", _to_sign_in)


def panel(template: str) -> Callable[[Handler], RouteHandler]:
    """Return a decorator: a handler of a part of a page, which the page's script requests."""
    return _endpoint(template, "problem.html", _sign_in_by_script)


def data(handler: Callable[[View], Awaitable[PageValues]]) -> RouteHandler:
    """Decorate a handler whose values go to the page's script as JSON."""

    @wraps(handler)
    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(await handler(View(request)))
        except SessionEndedError:
            return _sign_in_by_script(request)
        except ApiProblem as problem:
            return JSONResponse({"problem": problem.message}, status_of(problem))

    return endpoint


def _endpoint(
    template: str, on_problem: str, on_end: Callable[[Request], Response]
) -> Callable[[Handler], RouteHandler]:
    def decorate(handler: Handler) -> RouteHandler:
        @wraps(handler)
        async def endpoint(request: Request) -> Response:
            try:
                view = View(request)
                found = await handler(view)
                return found if isinstance(found, Response) else view.render(template, **found)
            except SessionEndedError:
                return on_end(request)
            except ApiProblem as problem:
                return view.render(on_problem, status_of(problem), problem=problem, no_answer=NO_ANSWER)

        return cast("RouteHandler", endpoint)

    return decorate


def status_of(problem: ApiProblem) -> int:
    """Return the status of the console's own answer about a problem."""
    return 502 if problem.status == NO_ANSWER else problem.status


def _sign_in_address(request: Request) -> str:
    """Return the address to sign in at, which leads back to the present page."""
    is_get = request.method == "GET"
    back = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
    reason = "ended" if cookie_of(request) in request.cookies else ""
    given = {"back": back if is_get and back != "/" else "", "reason": reason}
    text = urlencode({name: value for name, value in given.items() if value})
    return f"{SIGN_IN}?{text}" if text else SIGN_IN


def _to_sign_in(request: Request) -> Response:
    response = RedirectResponse(_sign_in_address(request), 303)
    response.delete_cookie(cookie_of(request))
    return response


def _sign_in_by_script(request: Request) -> Response:
    reason = "?reason=ended" if cookie_of(request) in request.cookies else ""
    response = Response(status_code=401, headers={SIGN_IN_HEADER: f"{SIGN_IN}{reason}"})
    response.delete_cookie(cookie_of(request))
    return response
