"""Live events: events as they get their outcome."""

from starlette.routing import Route

from console.text import VERDICTS, count, counted, duration
from console.view import PageValues, View, data, page, panel

FILTERS = ("verdict", "interaction_type", "retriever_id", "user_id", "execution_id")
ROWS = 100
"""Events shown of one look; further ones are counted."""


@page("live.html")
async def live(view: View) -> PageValues:
    """Show the page; its script asks for events."""
    return {
        "filters": {name: view.query.get(name, "") for name in FILTERS},
        "verdicts": VERDICTS,
        "source": view.same_query("/live/events", *FILTERS),
    }


@data
async def new_events(view: View) -> PageValues:
    """Return the rows of events since the cursor, with counts of all of them; without a cursor, the latest events."""
    given = {name: view.query.get(name) for name in FILTERS}
    found = await view.get("/v1/events/recent", limit=ROWS, cursor=view.query.get("cursor"), **given)
    templates = view.console.templates
    return {
        "cursor": found["cursor"],
        "rows": templates.get_template("live_rows.html").render(view=view, events=reversed(found["events"])),
        "counts": {name: found["counts"][name] for name in VERDICTS},
        "shown": found["shown"],
        "skipped": found["skipped"],
        "status": _status(found, is_first=not view.query.get("cursor")),
    }


@panel("live_groups.html")
async def groups(view: View) -> PageValues:
    """Show the executions or users with the most events of an outcome."""
    by = "user_id" if view.query.get("by") == "user_id" else "execution_id"
    found = await view.get("/v1/outcomes/groups", verdict=view.query.get("verdict"), by=by, minutes=15)
    return {"found": found, "by": by}


def _status(found: PageValues, *, is_first: bool) -> str:
    """Return the state of one look in words."""
    total = sum(found["counts"].values())
    parts = [f"{counted(total, 'event')} of the last minutes" if is_first else f"{counted(total, 'new event')}"]
    if found["sampled"]:
        parts.append(f"{count(found['shown'])} of them shown, the newest of each outcome")
    if found["skipped"]:
        parts.append(f"{counted(found['skipped'], 'record')} passed while this page did not ask")
    if found["in_flight"]:
        age = f", the oldest for {duration(found['lag_ms'])}" if found["lag_ms"] else ""
        parts.append(f"{count(found['in_flight'])} in flight without an outcome{age}")
    return "; ".join(parts)


ROUTES = (Route("/live", live), Route("/live/events", new_events), Route("/live/groups", groups))
