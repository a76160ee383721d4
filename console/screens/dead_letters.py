"""Dead letters: rejected events by reason, one of them with its bytes, and its correction."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from console.client import ApiProblem
from console.forms import read_form, selected, text_of
from console.view import PageValues, View, page, panel

SELECTION = ("reason", "field", "message", "since", "until", "replayed")
REPLAYED_CHOICES = {"no": "waiting", "yes": "replayed", "": "all"}
PAGE = 50
ALREADY_SHOWN = 422


def _query(view: View) -> dict[str, str]:
    found = selected(view.query, SELECTION)
    found.setdefault("replayed", "no" if "replayed" not in view.query else "")
    return found


@page("dead_letters.html")
async def dead_letters(view: View) -> PageValues:
    """Show the page for a selection."""
    chosen = _query(view)
    return {
        "chosen": chosen,
        "choices": REPLAYED_CHOICES,
        "groups": view.url("/dead-letters/groups", **chosen),
        "letters": view.url("/dead-letters/list", **chosen, cursor=view.query.get("cursor")),
    }


@panel("dead_letter_groups.html")
async def groups(view: View) -> PageValues:
    """Show the selected dead letters by reason and field."""
    chosen = {name: value for name, value in _query(view).items() if name != "message"}
    return {"found": await view.get("/v1/dead-letters/groups", **chosen), "chosen": chosen}


@panel("dead_letter_list.html")
async def letters(view: View) -> PageValues:
    """Show the selected dead letters, newest first."""
    chosen = _query(view)
    found = await view.get("/v1/dead-letters", limit=PAGE, cursor=view.query.get("cursor"), **chosen)
    return {"found": found, "chosen": chosen}


def _place(view: View) -> str:
    return f"{view.request.path_params['partition']}/{view.request.path_params['offset']}"


@page("dead_letter.html")
async def letter(view: View) -> PageValues:
    """Show one dead letter, and the form to correct it."""
    place = _place(view)
    return {"place": place, "letter": await view.get(f"/v1/dead-letters/{place}"), "patch": view.query.get("patch", "")}


@panel("dead_letter_check.html")
async def check(view: View) -> PageValues:
    """Show the validator's answer about a letter with a patch."""
    form = await read_form(view)
    patch, problem = read_patch(text_of(form, "patch", view.console.settings.form_bytes))
    if problem:
        return {"problem": problem, "found": None}
    found = await view.post(f"/v1/dead-letters/{_place(view)}/check", {"patch": patch or {}})
    return {"problem": "", "found": found}


def read_patch(text: str) -> tuple[dict[str, Any] | None, str]:
    """Return the patch in a text, None for an empty text, and what is wrong with it."""
    if not text:
        return None, ""
    try:
        found = json.loads(text)
    except RecursionError:
        return None, "The patch nests too deeply."
    except ValueError as error:
        return None, f"The patch is not JSON yet: {error}"
    if not isinstance(found, dict):
        return None, 'The patch is a JSON object, such as {"position": 0}.'
    return found, ""


@page("dead_letter_replay.html")
async def replay(view: View) -> PageValues:
    """Try a correction on the selected letters, or put them on the topic again. GET shows the form alone."""
    is_post = view.request.method == "POST"
    form = await read_form(view) if is_post else view.query
    chosen = selected(form, ("reason", "field", "message", "since", "until", "origin"))  # type: ignore[arg-type]
    text = text_of(form, "patch", view.console.settings.form_bytes)
    values = {"chosen": chosen, "patch": text, "problem": "", "result": None, "is_dry": True, "done": False}
    if not is_post:
        return values
    patch, problem = read_patch(text)
    is_dry = text_of(form, "action") != "replay"
    if problem:
        return values | {"problem": problem}
    try:
        result = await view.post("/v1/dead-letters/replay", _body(chosen, patch, is_dry=is_dry))
    except ApiProblem as error:
        if error.status != ALREADY_SHOWN:
            raise
        return values | {"problem": error.message}
    return values | {"result": result, "is_dry": is_dry, "done": not is_dry}


def _body(chosen: Mapping[str, str], patch: dict[str, Any] | None, *, is_dry: bool) -> dict[str, Any]:
    body: dict[str, Any] = {name: value for name, value in chosen.items() if name != "origin"}
    if "origin" in chosen:
        body["origins"] = [chosen["origin"]]
    return body | {"dry_run": is_dry} | ({"patch": patch} if patch else {})


ROUTES = (
    Route("/dead-letters", dead_letters),
    Route("/dead-letters/groups", groups),
    Route("/dead-letters/list", letters),
    Route("/dead-letters/replay", replay, methods=["GET", "POST"]),
    Route("/dead-letters/{partition:int}/{offset:int}", letter),
    Route("/dead-letters/{partition:int}/{offset:int}/check", check, methods=["POST"]),
)
