"""API keys: who may send and read events."""

from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from console.client import ApiProblem, segment
from console.forms import read_form, text_of
from console.view import PageValues, View, page, panel

SCOPES = {
    "write": "send events, and correct dead letters",
    "read": "look at events and reports",
    "delete": "delete events",
    "admin": "create and revoke keys; see records of no namespace",
}
_INPUT_PROBLEMS = (400, 409, 422)


@page("keys.html")
async def keys(view: View) -> PageValues:
    """Show the page with the form for a new key."""
    return {"scopes": SCOPES, "own": await view.get("/v1/keys/self"), "problem": "", "given": {}}


@panel("key_list.html")
async def key_list(view: View) -> PageValues:
    """Show the keys that this key may manage."""
    own = await view.get("/v1/keys/self")
    return {"keys": (await view.get("/v1/keys"))["keys"], "own": own}


@page("key_created.html")
async def create(view: View) -> Response | PageValues:
    """Create a key and show it, once."""
    form = await read_form(view)
    name, rate = text_of(form, "name"), text_of(form, "rate_per_s")
    namespaces = [each.strip() for each in text_of(form, "namespaces", 4_000).split(",") if each.strip()]
    scopes = [each for each in SCOPES if each in form.getlist("scopes")]
    body: dict[str, Any] = {"name": name, "scopes": scopes, "namespaces": namespaces}
    problem = ""
    if rate:
        body["rate_per_s"] = int(rate) if rate.isascii() and rate.isdigit() else rate
    try:
        return {"created": await view.post("/v1/keys", body)}
    except ApiProblem as error:
        if error.status not in _INPUT_PROBLEMS:
            raise
        problem = error.message
    own = await view.get("/v1/keys/self")
    given = {"name": name, "namespaces": ", ".join(namespaces), "scopes": scopes, "rate_per_s": rate}
    return view.render("keys.html", 422, scopes=SCOPES, own=own, problem=problem, given=given)


@page("key_revoked.html")
async def revoke(view: View) -> PageValues:
    """Revoke a key after the viewer has confirmed it."""
    form = await read_form(view)
    key_id, name = text_of(form, "key_id", 64), text_of(form, "name")
    if text_of(form, "confirmed") != "yes":
        return {"key_id": key_id, "name": name, "is_revoked": False}
    await view.call("DELETE", f"/v1/keys/{segment(key_id)}")
    return {"key_id": key_id, "name": name, "is_revoked": True}


ROUTES = (
    Route("/keys", keys),
    Route("/keys/list", key_list),
    Route("/keys/create", create, methods=["POST"]),
    Route("/keys/revoke", revoke, methods=["POST"]),
)
