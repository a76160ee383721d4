"""Overview: events, workers, lag and silence."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from starlette.routing import Route

from console.charts import Bar, bar_chart
from console.client import ApiProblem
from console.text import VERDICTS, count, parse_time
from console.view import PageValues, View, page, panel

RANGES = {"60": "last hour", "360": "last 6 hours", "1440": "last day", "10080": "last 7 days"}
"""Ranges of traffic in minutes."""
REFUSAL_MINUTES, RECENT_MINUTES, MINUTE_MS = 60, 5, 60_000


def minutes_of(view: View) -> str:
    """Return the chosen range in minutes."""
    chosen = view.query.get("minutes", "60")
    return chosen if chosen in RANGES else "60"


@page("overview.html")
async def overview(view: View) -> PageValues:
    """Show the page; its panels load by themselves."""
    return {"ranges": RANGES, "minutes": minutes_of(view)}


@panel("overview_pipeline.html")
async def pipeline(view: View) -> PageValues:
    """Show lag, rates, stores and workers."""
    found = await view.get("/v1/pipeline")
    active = [each for each in found["workers"] if each["state"] == "active"]
    left = [each for each in found["workers"] if each["state"] != "active"]
    current = [each for each in found["incidents"] if each["until"] is None]
    ended = [each for each in found["incidents"] if each["until"] is not None]
    ended.sort(key=lambda each: str(each["since"]), reverse=True)
    return {"pipeline": found, "active": active, "left": left, "current": current, "ended": ended}


@panel("overview_traffic.html")
async def traffic(view: View) -> PageValues:
    """Show events by verdict over time."""
    found = await view.get("/v1/traffic", minutes=minutes_of(view))
    return {"traffic": found, "chart": chart_of(found), "verdicts": VERDICTS, "total": sum(found["totals"].values())}


def chart_of(found: Mapping[str, Any]) -> Markup:
    """Draw events by verdict over time."""
    bars = _bars(found["points"], "at", VERDICTS)
    return bar_chart(bars, VERDICTS, found["step_ms"], label="Events by outcome over time", show=count)


def _bars(steps: Sequence[Mapping[str, Any]], begin: str, parts: Sequence[str]) -> list[Bar]:
    """Return a bar for each step of time, from the names of its beginning and of its counts."""
    known = [(parse_time(step[begin]), step) for step in steps]
    return [Bar(at.timestamp() * 1000, [step.get(part) or 0 for part in parts]) for at, step in known if at is not None]


@panel("overview_namespaces.html")
async def namespaces(view: View) -> PageValues:
    """Show the namespaces of the key, and which are silent or unusual."""
    return {"namespaces": (await view.get("/v1/namespaces"))["namespaces"]}


@panel("overview_refusals.html")
async def refusals(view: View) -> PageValues:
    """Show events that were sent over HTTP: accepted by API key, and refused by reason."""
    found = await view.get("/v1/refusals", minutes=REFUSAL_MINUTES)
    minutes = found["per_minute"][-RECENT_MINUTES:]
    recent = {
        "refused": sum(each["refused"] for each in minutes),
        "since": minutes[0]["minute"],
        "latest": max((each["last"] for each in found["groups"]), default=None),
    }
    return {"refusals": found, "chart": _refusal_chart(found), "names": await key_names(view), "recent": recent}


def _refusal_chart(found: Mapping[str, Any]) -> Markup:
    parts = ("accepted", "refused")
    bars = _bars(found["per_minute"], "minute", parts)
    return bar_chart(bars, parts, MINUTE_MS, label="Accepted and refused events by minute", show=count)


async def key_names(view: View) -> Mapping[str, str]:
    """Return the names of API keys by id, as far as the viewer may see them."""
    try:
        keys = (await view.get("/v1/keys"))["keys"]
    except ApiProblem:
        return {}
    return {each["key_id"]: each["name"] for each in keys}


ROUTES = (
    Route("/", overview),
    Route("/overview/pipeline", pipeline),
    Route("/overview/traffic", traffic),
    Route("/overview/namespaces", namespaces),
    Route("/overview/refusals", refusals),
)
