"""Reports: each with its range, parameters, chart, comparison and SQL; and the journey of a session."""

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from console.client import ApiProblem, segment
from console.forms import text_of
from console.ranges import ChosenRange
from console.report_table import chart_of, headings, series_names, table_rows
from console.view import PageValues, View, page, panel

HIDDEN = ("journey",)
"""Reports with a screen of their own."""
ROWS = 200
RANGE = ("hours", "days", "since", "until")
FIXED = (*RANGE, "filters", "sort", "compare")
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
    length = ChosenRange.of(view.query)
    return {
        "report": found,
        "given": given,
        "chosen": chosen | {"hours": length.hours},
        "ranges": length.choices(),
        "source": "" if missing else source,
        "names": await _retrievers(view) if missing else [],
    }


def _chosen_range(view: View, default_hours: str = "24") -> ChosenRange:
    """Return the range of the request. Raises ApiProblem for one that cannot be read."""
    chosen = ChosenRange.of(view.query, default_hours)
    if chosen.problem:
        raise ApiProblem(422, chosen.problem)
    return chosen


async def _retrievers(view: View) -> list[str]:
    """Return names to choose from: the retrievers of the last week."""
    try:
        rows = (await view.get("/v1/reports/retrievers", days=7, limit=20))["rows"]
    except ApiProblem:
        return []
    return [str(row["retriever_id"]) for row in rows if row["retriever_id"]]


@panel("report_rows.html")
async def report_rows(view: View) -> PageValues:
    """Show the rows of a report."""
    name = view.request.path_params["name"]
    description = await _description(view, name)
    chosen = _chosen_range(view)
    query = {each["name"]: text_of(view.query, each["name"]) for each in description["parameters"]}
    query |= {each: text_of(view.query, each, MAX_FILTER_CHARACTERS) for each in ("filters", "sort")}
    path = f"/v1/reports/{segment(name)}"
    found = await view.get(path, **query, **chosen.as_query(), limit=ROWS, include_sql="true")
    is_compared = view.query.get("compare") and found["rows"]
    before = await _answer_before(view, path, query, chosen) if is_compared else None
    return {
        "found": found,
        "columns": list(zip(headings(found["columns"], query.get("by", "")), found["columns"], strict=True)),
        "rows": table_rows(found["columns"], description["keys"], found, before, query.get("by") or "day"),
        "before": before,
        "range": {each: view.query.get(each) for each in RANGE},
        "chart": chart_of(description["chart"], found["columns"], found["rows"]),
        "series": series_names(description["chart"], found["rows"]),
        "title": (description["chart"] or {}).get("title", ""),
        "sortable": view.same_query(f"/reports/{segment(name)}", *FIXED, *query),
    }


async def _answer_before(view: View, path: str, query: Mapping[str, str], chosen: ChosenRange) -> Mapping[str, Any]:
    """Return the API's answer for the range before; without rows if no time is before the range."""
    before = chosen.before()
    if before["since"] == before["until"]:
        return {**before, "rows": [], "filters": None, "truncated": False}
    return dict(await view.get(path, **query, **before, limit=ROWS))


@page("journey.html")
async def journey(view: View) -> PageValues:
    """Show the form for a session, and its events or the latest sessions."""
    session = text_of(view.query, "session")
    given = {name: text_of(view.query, name) for name in RANGE}
    length = ChosenRange.of(view.query, "168")
    source = view.url("/journey/events" if session else "/journey/sessions", session=session, **given)
    return {
        "session": session,
        "source": source,
        "ranges": length.choices(),
        "chosen": given | {"hours": length.hours},
    }


@panel("journey_events.html")
async def journey_events(view: View) -> PageValues:
    """Show the events of a session, step by step."""
    session, chosen = text_of(view.query, "session"), _chosen_range(view, "168")
    found = await view.get("/v1/reports/journey", session=session, **chosen.as_query(), limit=1_000)
    return {"session": session, "found": found, "range": chosen.choices().get(chosen.hours, "")}


@panel("journey_sessions.html")
async def journey_sessions(view: View) -> PageValues:
    """Show the latest sessions to choose from."""
    found = await view.get("/v1/reports/sessions", **_chosen_range(view, "168").as_query(), limit=30)
    return {"found": found, "range": {each: view.query.get(each) for each in RANGE}}


ROUTES = (
    Route("/reports", reports),
    Route("/reports/{name}", report),
    Route("/reports/{name}/rows", report_rows),
    Route("/journey", journey),
    Route("/journey/events", journey_events),
    Route("/journey/sessions", journey_sessions),
)
