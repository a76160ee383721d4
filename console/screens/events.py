"""Where is my event: everything known of one event, or the events of a search, a user or a session."""

import re
from collections import Counter

from starlette.routing import Route

from console.client import segment
from console.text import VERDICTS, parse_time
from console.view import PageValues, View, page, panel

MAX_ID_CHARACTERS = 512
INTERACTION_ID = re.compile(r"int_[0-9a-f]{32}")
PAGE = 50
SHOWN_DIFFERENCE_S = 1.0
"""Difference of event time and append time from which both are shown in a list: its times are in seconds."""


def id_of(view: View) -> str:
    """Return the id to find."""
    return view.query.get("id", "").strip()[:MAX_ID_CHARACTERS]


@page("find.html")
async def find(view: View) -> PageValues:
    """Show the page for an id."""
    wanted = id_of(view)
    is_one = bool(INTERACTION_ID.fullmatch(wanted))
    kept = {} if is_one else {name: view.query.get(name) for name in ("cursor", "verdict")}
    source = view.url("/find/event" if is_one else "/find/events", id=wanted, **kept)
    return {"wanted": wanted, "source": source if wanted else "", "is_one": is_one, "verdicts": VERDICTS}


@panel("find_event.html")
async def one_event(view: View) -> PageValues:
    """Show everything known of one event."""
    wanted = id_of(view)
    return {"wanted": wanted, "found": await view.get(f"/v1/events/{segment(wanted)}")}


@panel("find_events.html")
async def many_events(view: View) -> PageValues:
    """Show the events of an execution, a user or a session."""
    wanted, chosen = id_of(view), view.query.get("verdict", "")
    found = await view.get("/v1/events", any_id=wanted, verdict=chosen, limit=PAGE, cursor=view.query.get("cursor"))
    events = found["events"]
    for each in events:
        each["own_time"] = each["event_time"] if _differs(each["event_time"], each["timestamp"]) else None
    summary = Counter(each["verdict"] for each in events)
    newest = max((each["timestamp"] for each in events), default=None)  # the list is in the order of ids
    return {"wanted": wanted, "chosen": chosen, "found": found, "summary": summary, "newest": newest}


def _differs(event_time: str | None, append_time: str) -> bool:
    happened, appended = parse_time(event_time or ""), parse_time(append_time)
    if happened is None or appended is None:
        return False
    return abs((appended - happened).total_seconds()) >= SHOWN_DIFFERENCE_S


ROUTES = (Route("/find", find), Route("/find/event", one_event), Route("/find/events", many_events))
