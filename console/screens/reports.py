"""Reports: each with its range, parameters, chart, comparison and SQL; and the journey of a session."""

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from console.client import ApiProblem, segment
from console.forms import text_of
from console.ranges import HOURS, ChosenRange
from console.report_table import chart_of, series_names, table_rows
from console.view import PageValues, View, page, panel

HIDDEN = ("journey",)
"""Reports with a screen of their own."""
ROWS = 200
FIXED = ("hours", "since", "until", "filters", "sort", "compare")
MAX_FILTER_CHARACTERS = 8_000


@page("reports.html")
async def reports(view: View) -> PageValues:
    """List the reports with their questions."""
    found = (await view.get("/v1/reports"))["reports"]
    return {"reports": [each for each in found if each["name"] not in HIDDEN]}


async def _description(view: View, name: str) -> Mapping[str, Any]:
    for each in (await view.get("/v1/reports"))["reports"]:
        if each["name"] == name:
            return dict(each)
    raise ApiProblem(404, f"There is no report {name[:64]!r}: the screen Reports lists them.")


@page("report.html")
async def report(view: View) -> PageValues:
    """Show a report's form, and the panel with its rows."""
    name = view.request.path_params["name"]
    found = await _description(view, name)
    parameters = found["parameters"]
    given = {each["name"]: text_of(view.query, each["name"]) for each in parameters}
    missing = [each["name"] for each in parameters if each["default"] is None and not given[each["name"]]]
    chosen = {each: text_of(view.query, each, MAX_FILTER_CHARACTERS) for each in FIXED}
    source = view.url(f"/reports/{segment(name)}/rows", **chosen, **given)
    return {
        "report": found,
        "given": given,
        "chosen": chosen | {"hours": ChosenRange.of(view.query).hours},
        "ranges": HOURS,
        "source": "" if missing else source,
        "names": await _retrievers(view) if missing else [],
    }


async def _retrievers(view: View) -> list[str]:
    """Return names to choose from: the retrievers of the last week."""
    try:
        rows = (await view.get("/v1/reports/retrievers", days=7, limit=20))["rows"]
    except ApiProblem:
        return []
    return [str(row["retriever_id"]) for row in rows]


@panel("report_rows.html")
async def report_rows(view: View) -> PageValues:
    """Show the rows of a report."""
    name = view.request.path_params["name"]
    description = await _description(view, name)
    chosen = ChosenRange.of(view.query)
    if chosen.problem:
        raise ApiProblem(422, chosen.problem)
    query = {each["name"]: text_of(view.query, each["name"]) for each in description["parameters"]}
    query |= {each: text_of(view.query, each, MAX_FILTER_CHARACTERS) for each in ("filters", "sort")}
    path = f"/v1/reports/{segment(name)}"
    found = await view.get(path, **query, **chosen.as_query(), limit=ROWS, include_sql="true")
    before = None
    if view.query.get("compare") and found["rows"]:
        before = (await view.get(path, **query, **chosen.before(), limit=ROWS))["rows"]
    return {
        "found": found,
        "columns": found["columns"],
        "rows": table_rows(found["columns"], description["keys"], found["rows"], before),
        "compared": before is not None,
        "chart": chart_of(description["chart"], found["columns"], found["rows"]),
        "series": series_names(description["chart"], found["rows"]),
        "title": (description["chart"] or {}).get("title", ""),
        "sortable": view.same_query(f"/reports/{segment(name)}", *FIXED, *query),
    }


@page("journey.html")
async def journey(view: View) -> PageValues:
    """Show the form for a session, and its events or the latest sessions."""
    session = text_of(view.query, "session")
    hours = ChosenRange.of(view.query, "168").hours
    source = view.url("/journey/events" if session else "/journey/sessions", session=session, hours=hours)
    return {"session": session, "source": source, "ranges": HOURS, "hours": hours}


@panel("journey_events.html")
async def journey_events(view: View) -> PageValues:
    """Show the events of a session, step by step."""
    session = text_of(view.query, "session")
    chosen = ChosenRange.of(view.query, "168")
    found = await view.get("/v1/reports/journey", session=session, **chosen.as_query(), limit=1_000)
    return {"session": session, "found": found, "range": HOURS.get(chosen.hours, "")}


@panel("journey_sessions.html")
async def journey_sessions(view: View) -> PageValues:
    """Show the latest sessions to choose from."""
    chosen = ChosenRange.of(view.query, "168")
    return {"found": await view.get("/v1/reports/sessions", **chosen.as_query(), limit=30), "hours": chosen.hours}


ROUTES = (
    Route("/reports", reports),
    Route("/reports/{name}", report),
    Route("/reports/{name}/rows", report_rows),
    Route("/journey", journey),
    Route("/journey/events", journey_events),
    Route("/journey/sessions", journey_sessions),
)
