"""Signing in and out, the theme, and pages for everyone."""

import re

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from console.client import NO_ANSWER, ApiProblem
from console.sessions import ViewerSession, cookie_of
from console.view import SIGN_IN, Console, SessionEndedError, View

MAX_KEY_CHARACTERS = 512
_PATH = re.compile(r"/(?!/)[!-\[\]-~]*")
"""Visible ASCII without a backslash, which browsers take for a slash. Two and more slashes name a host."""
THEMES = ("system", "light", "dark")
_REASONS = {
    "ended": "Your session has ended: the API does not accept its key any more, too much time has passed, or the "
    "console was restarted without TALLY_CONSOLE_SECRETS.",
    "left": "You have signed out.",
}


def local_path(text: str | None) -> str:
    """Return a path of the console to go to; `/` for an address of another site, and for an unusual spelling."""
    return text if text and _PATH.fullmatch(text) else "/"


def _page(request: Request, status: int, problem: str, back: str) -> Response:
    console: Console = request.app.state.console
    note = _REASONS.get(request.query_params.get("reason", ""), "")
    text = console.templates.get_template("sign_in.html").render(
        request=request, problem=problem, note=note, back=back, theme=request.cookies.get("tally_theme", "")
    )
    return HTMLResponse(text, status)


async def sign_in(request: Request) -> Response:
    """Ask for an API key, and keep it in the session if the API knows it."""
    console: Console = request.app.state.console
    if request.method in ("GET", "HEAD"):
        return _page(request, 200, "", local_path(request.query_params.get("back")))
    form = await request.form(max_files=0, max_fields=10)
    key, back = str(form.get("key", "")).strip(), local_path(str(form.get("back", "/")))
    if not key or len(key) > MAX_KEY_CHARACTERS:
        return _page(request, 422, "Enter an API key.", back)
    if not (key.isascii() and key.isprintable()):
        return _page(request, 422, "The key has characters that no API key has.", back)
    try:
        own = await console.api.call("GET", "/v1/keys/self", key=key)
    except ApiProblem as problem:
        if problem.status == NO_ANSWER:
            return _page(request, 502, problem.message, back)
        return _page(request, 401 if problem.status == 401 else 502, f"The API answers: {problem.message}", back)  # noqa: PLR2004
    response = RedirectResponse(back, 303)
    response.set_cookie(
        cookie_of(request),
        console.sessions.seal(ViewerSession(key, own["namespace"])),
        max_age=console.sessions.life_s,
        httponly=True,
        secure=console.settings.secure_cookies,
        samesite="lax",
    )
    return response


async def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    response = RedirectResponse(f"{SIGN_IN}?reason=left", 303)
    response.delete_cookie(cookie_of(request))
    return response


async def choose_theme(request: Request) -> Response:
    """Keep the theme in a cookie, and go back to the page."""
    form = await request.form(max_files=0, max_fields=10)
    theme = str(form.get("theme", ""))
    response = RedirectResponse(local_path(str(form.get("back", "/"))), 303)
    if theme in THEMES:
        response.set_cookie("tally_theme", theme, max_age=31_536_000, httponly=True, samesite="lax")
    return response


async def not_found(request: Request, _error: Exception) -> Response:
    """Answer a request for a page that does not exist."""
    try:
        return View(request).render("not_found.html", 404)
    except SessionEndedError:
        console: Console = request.app.state.console
        page = console.templates.get_template("not_found_signed_out.html")
        return HTMLResponse(page.render(theme=request.cookies.get("tally_theme", "")), 404)


ROUTES = (
    Route(SIGN_IN, sign_in, methods=["GET", "POST"]),
    Route("/sign-out", sign_out, methods=["POST"]),
    Route("/theme", choose_theme, methods=["POST"]),
)
