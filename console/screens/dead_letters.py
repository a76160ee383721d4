"""Dead letters: rejected events by reason, one of them with its bytes, and its correction."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from console.client import NO_ANSWER, ApiProblem
from console.forms import read_form, selected, text_of
from console.text import pretty_json
from console.view import PageValues, View, page, panel, status_of

CONDITIONS = ("reason", "field", "message", "since", "until")
FLAGS = ("without_field", "unattributed")
"""Conditions that are on or off: letters without a field; records that belong to no namespace."""
SELECTION = (*CONDITIONS, *FLAGS, "replayed")
REPLAYED_CHOICES = {"no": "waiting", "yes": "replayed", "all": "all"}
PAGE = 50
SCOPES = ("read", "write", "admin")
"""Scopes that this screen knows: write to replay, admin for records of no namespace."""
UNATTRIBUTED = {"unattributed": "true"}
LIMITING = ("reason", "field", "without_field", "message", "since", "until", "origin")
"""Conditions of which a correction has at least one: all letters of a namespace are never corrected at once."""
_PLACE = re.compile(r"[0-9]{1,10}/[0-9]{1,19}")


def _selection(view: View) -> dict[str, str]:
    found = selected(view.query, SELECTION)
    found.setdefault("replayed", "no")
    return found


def _conditions(chosen: Mapping[str, str], *left_out: str) -> dict[str, Any]:
    """Return a selection as parameters of the API."""
    found: dict[str, Any] = {name: value for name, value in chosen.items() if name in CONDITIONS}
    if "without_field" in chosen:
        found["field"] = ""
    if chosen.get("replayed") in ("yes", "no"):
        found["replayed"] = chosen["replayed"]
    if "unattributed" in chosen:
        found |= UNATTRIBUTED
    return {name: value for name, value in found.items() if name not in left_out}


@page("dead_letters.html")
async def dead_letters(view: View) -> PageValues:
    """Show the page for a selection."""
    chosen = _selection(view)
    return {
        "scopes": await _scopes(view),
        "chosen": chosen,
        "choices": REPLAYED_CHOICES,
        "groups": view.url("/dead-letters/groups", **chosen),
        "letters": view.url("/dead-letters/list", **chosen, cursor=view.query.get("cursor")),
    }


@panel("dead_letter_groups.html")
async def groups(view: View) -> PageValues:
    """Show the selected dead letters by reason and field."""
    chosen = _selection(view)
    found = await view.call("GET", "/v1/dead-letters/groups", _conditions(chosen, "message"))
    return {"found": found, "chosen": chosen, "kept": _kept(chosen)}


@panel("dead_letter_list.html")
async def letters(view: View) -> PageValues:
    """Show the selected dead letters, newest first."""
    chosen = _selection(view)
    query = _conditions(chosen) | {"limit": PAGE, "cursor": view.query.get("cursor")}
    found = await view.call("GET", "/v1/dead-letters", query)
    return {"found": found, "chosen": chosen, "kept": _kept(chosen)}


async def _scopes(view: View) -> Collection[str]:
    """Return the scopes of the viewer's key. While they are unknown, nothing is disabled: the API decides."""
    try:
        found = await view.get("/v1/keys/self")
    except ApiProblem:
        return SCOPES
    return tuple(found["scopes"])


def _kept(chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a selection that links to single letters carry."""
    return {name: value for name, value in chosen.items() if name == "unattributed"}


def _place(view: View) -> str:
    """Return partition/offset. Raises ApiProblem for a text that is none."""
    place = f"{view.request.path_params['partition']}/{view.request.path_params['offset']}"
    if not _PLACE.fullmatch(place):
        raise ApiProblem(404, "There is no such dead letter: its address is partition/offset.")
    return place


@page("dead_letter.html")
async def letter(view: View) -> PageValues:
    """Show one dead letter, and the form to correct it."""
    place, kept = _place(view), _kept(selected(view.query, FLAGS))
    found = await view.get(f"/v1/dead-letters/{place}", **(UNATTRIBUTED if kept else {}))
    formatted = pretty_json(found["value"] or "")
    return {
        "place": place,
        "letter": found,
        "formatted": "" if formatted == (found["value"] or "") else formatted,
        "patch": view.query.get("patch", ""),
        "kept": kept,
        "scopes": await _scopes(view),
    }


@panel("dead_letter_check.html")
async def check(view: View) -> PageValues:
    """Show the validator's answer about a letter with a patch."""
    form = await read_form(view)
    patch, problem = read_patch(text_of(form, "patch", view.console.settings.form_bytes))
    if problem:
        return {"problem": problem, "found": None}
    body: dict[str, Any] = {"patch": patch or {}}
    query = UNATTRIBUTED if "unattributed" in view.query else {}
    if query:
        body["as_namespace"] = view.namespace
    found = await view.post(f"/v1/dead-letters/{_place(view)}/check", body, **query)
    return {"problem": "", "found": found}


def read_patch(text: str) -> tuple[dict[str, Any] | None, str]:
    """Return the patch in a text, None for an empty text, and what is wrong with it."""
    if not text:
        return None, ""
    try:
        found = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        return None, "The patch nests too deeply."
    except ValueError as error:
        return None, f"The patch is not JSON yet: {error}"
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None, "The patch has a number that is larger than any double, or half of a surrogate pair."
    if not isinstance(found, dict):
        return None, 'The patch is a JSON object, such as {"position": 0}.'
    return found, ""


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no value of JSON")


@page("dead_letter_replay.html")
async def replay(view: View) -> PageValues | Response:
    """Try a correction on the selected letters, or put them on the topic again. GET shows the form alone.

    Without a condition it leads to the list. A refusal is shown above the form, which keeps its content.
    """
    is_post = view.request.method == "POST"
    form = await read_form(view) if is_post else view.query
    chosen = selected(form, (*CONDITIONS, *FLAGS, "origin", "cursor"))
    if not any(name in chosen for name in LIMITING):
        return RedirectResponse(view.url("/dead-letters", **_kept(chosen)), 303)
    text = text_of(form, "patch", view.console.settings.form_bytes)
    values: dict[str, Any] = {"chosen": chosen, "patch": text, "bad_patch": "", "problem": None, "result": None}
    values |= {"is_dry": True, "waits": True, "scopes": await _scopes(view)}
    if not is_post:
        return values
    patch, bad_patch = read_patch(text)
    is_dry = text_of(form, "action") != "replay"
    if bad_patch:
        return values | {"bad_patch": bad_patch}
    try:
        result = await view.post("/v1/dead-letters/replay", _body(view, chosen, patch, is_dry=is_dry))
    except ApiProblem as problem:
        values |= {"problem": problem, "no_answer": NO_ANSWER}
        return view.render("dead_letter_replay.html", status_of(problem), **values)
    is_first = chosen.pop("cursor", None) is None  # letters of earlier requests may have stayed rejected
    waits = not is_first or result["still_rejected"] or result["more"] or (is_dry and result["would_pass"])
    return values | {"result": result, "is_dry": is_dry, "waits": waits}


def _body(view: View, chosen: Mapping[str, str], patch: dict[str, Any] | None, *, is_dry: bool) -> dict[str, Any]:
    body = _conditions(chosen) | {"dry_run": is_dry}
    if "origin" in chosen:
        body["origins"] = [chosen["origin"]]
    if "unattributed" in chosen:
        body |= {"unattributed": True, "as_namespace": view.namespace}
    if "cursor" in chosen:  # without it letters that stay rejected would be tried again, and later ones never
        body["cursor"] = chosen["cursor"]
    return body | ({"patch": patch} if patch else {})


ROUTES = (
    Route("/dead-letters", dead_letters),
    Route("/dead-letters/groups", groups),
    Route("/dead-letters/list", letters),
    Route("/dead-letters/replay", replay, methods=["GET", "POST"]),
    Route("/dead-letters/{partition}/{offset}", letter),
    Route("/dead-letters/{partition}/{offset}/check", check, methods=["POST"]),
)
