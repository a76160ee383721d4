"""Learning: propensities, judgments, weights over time and interleavings, with their intervals."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from starlette.routing import Route

from console.charts import ChartLine, LinePoint, line_chart
from console.client import ApiProblem, segment
from console.digits import even_numbers
from console.forms import text_of
from console.ranges import ChosenRange
from console.text import number, parse_time, share
from console.view import PageValues, View, page, panel

METHODS = {
    "harvesting": "positions compared on the same documents",
    "em": "position-based model",
    "randomised": "randomised slots",
}
JUDGMENT_METHODS = {
    "ctr": "click-through rate with a prior",
    "coec": "clicks over expected clicks",
    "ips": "clicks weighted by inverse propensities",
    "graded": "grade of the highest reward",
}
CHOICES = ("retriever", "hours", "since", "until", "method", "judged_by", "query", "segment", "user", "days")
MAX_JUDGMENTS, FIRST_JUDGMENTS = 100, 20
DAYS = ("7", "30", "90", "366")


@page("learning.html")
async def learning(view: View) -> PageValues:
    """Show the form for a retriever, and a panel for each thing that is learned."""
    names = await _retrievers(view)
    retriever = text_of(view.query, "retriever") or (names[0] if names else "")
    chosen = {name: text_of(view.query, name) for name in CHOICES} | {"retriever": retriever}
    given = {name: value for name, value in chosen.items() if value}
    length = _chosen_range(view)
    return {
        "names": names,
        "chosen": chosen | {"hours": length.hours},
        "ranges": length.choices(),
        "methods": METHODS,
        "judgment_methods": JUDGMENT_METHODS,
        "days": dict.fromkeys([*DAYS, chosen["days"] or DAYS[1]]),
        "source": {
            part: view.url(f"/learning/{part}", **given)
            for part in ("propensities", "judgments", "weights", "interleavings")
        },
    }


async def _retrievers(view: View) -> list[str]:
    """Return the retrievers of the last month, those with most executions first, then others with a configuration."""
    rows = (await view.get("/v1/reports/retrievers", days=30, sort="executions:desc", limit=50))["rows"]
    names = [str(row["retriever_id"]) for row in rows if row["retriever_id"]]
    configured = (await view.get("/v1/learning-configs"))["configs"]
    return list(dict.fromkeys([*names, *(each["retriever_id"] for each in configured)]))


def _path(view: View, rest: str) -> str:
    retriever = text_of(view.query, "retriever")
    if not retriever:
        raise ApiProblem(422, "Choose a retriever: events name theirs in retriever_id.")
    return f"/v1/retrievers/{segment(retriever)}/{rest}"


def _chosen_range(view: View) -> ChosenRange:
    """Return the range of event time; the `days` of this screen are those of the weights."""
    return ChosenRange.of({name: text_of(view.query, name) for name in ("hours", "since", "until")}, "168")


def _range(view: View) -> Mapping[str, str]:
    chosen = _chosen_range(view)
    if chosen.problem:
        raise ApiProblem(422, chosen.problem)
    return chosen.as_query()


@panel("learning_propensities.html")
async def propensities(view: View) -> PageValues:
    """Show how much each position is examined."""
    method = text_of(view.query, "method") or "harvesting"
    found = await view.get(_path(view, "propensities"), method=method, **_range(view))
    points = [point for curve in found["curves"] for point in curve["points"]]
    return {
        "found": found,
        "chart": curve_chart(found["curves"]),
        "method": METHODS.get(method, method),
        "show": even_numbers(point[name] for point in points for name in ("value", "low", "high")),
    }


def curve_chart(curves: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw a line for each curve over the positions."""
    lines = []
    for curve in curves:
        points = [
            LinePoint(
                each["position"],
                each["value"],
                each["low"],
                each["high"],
                f"position {each['position']}: {_with_interval(each, 'value', number)}",
            )
            for each in curve["points"]
        ]
        lines.append(ChartLine(str(curve.get("segment") or ""), points))
    return line_chart(lines, label="Examination by position, relative to the lowest one", show=number, axis="number")


def _with_interval(values: Mapping[str, Any], name: str, show: Callable[[float | None], str]) -> str:
    return f"{show(values[name])}, {show(values['low'])} to {show(values['high'])}"


@panel("learning_judgments.html")
async def judgments(view: View) -> PageValues:
    """Show how good each document is for a query."""
    query, method = text_of(view.query, "query"), text_of(view.query, "judged_by") or "ctr"
    limit = MAX_JUDGMENTS if query else FIRST_JUDGMENTS
    found = await view.get(_path(view, "judgments"), method=method, query=query, limit=limit, **_range(view))
    rows = found["judgments"]
    return {
        "found": found,
        "query": query,
        "method": JUDGMENT_METHODS.get(method, method),
        "show": even_numbers(row[name] for row in rows for name in ("value", "low", "high")),
        "show_n": even_numbers(row["effective_n"] for row in rows),
    }


@panel("learning_weights.html")
async def weights(view: View) -> PageValues:
    """Show the weight of each feature by day."""
    segment, user = text_of(view.query, "segment"), text_of(view.query, "user")
    days = text_of(view.query, "days") or "30"
    path = _path(view, "weights/history")
    try:
        found = await view.get(path, days=days, segment=segment, user_id=user)
    except ApiProblem as problem:
        if problem.code != "unknown_config":
            raise
        return {"found": None, "retriever": text_of(view.query, "retriever"), "names": []}
    names = _features(found["days"])
    return {
        "found": found,
        "names": names,
        "weight_chart": weight_chart(found["days"], names),
        "reward_chart": reward_chart(found["days"], names),
        "retriever": text_of(view.query, "retriever"),
    }


def _features(days: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the features, those with the largest latest weight first."""
    latest = {feature["feature_uri"]: feature["weight"] for day in days for feature in day["features"]}
    return sorted(latest, key=lambda name: -(latest[name] or 0))


def weight_chart(days: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
    """Draw the weight of each feature by day."""

    def point(at: float, day: str, each: Mapping[str, Any]) -> LinePoint:
        return LinePoint(at, each["weight"], title=f"{each['feature_uri']} {day}: {share(each['weight'])}")

    return line_chart(_lines(days, names, point), label="Weight of each feature by day", show=share, axis="day")


def reward_chart(days: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
    """Draw the mean reward of each feature by day, with its interval."""

    def point(at: float, day: str, each: Mapping[str, Any]) -> LinePoint:
        title = f"{each['feature_uri']} {day}: {_with_interval(each, 'mean', share)}"
        return LinePoint(at, each["mean"], each["low"], each["high"], title)

    return line_chart(_lines(days, names, point), label="Mean reward of each feature by day", show=share, axis="day")


def _lines(
    days: Sequence[Mapping[str, Any]], names: Sequence[str], point: Callable[[float, str, Mapping[str, Any]], LinePoint]
) -> list[ChartLine]:
    """Return a line for each feature, with a point for each of its days."""
    lines: dict[str, list[LinePoint]] = {name: [] for name in names}
    for day in days:
        moment = parse_time(day["day"])
        if moment is None:
            continue
        for each in day["features"]:
            lines[each["feature_uri"]].append(point(moment.timestamp() * 1000, day["day"], each))
    return [ChartLine(name, points) for name, points in lines.items()]


@panel("learning_interleavings.html")
async def interleavings(view: View) -> PageValues:
    """Show the experiments with interleaved rankings."""
    return {"experiments": (await view.get("/v1/interleavings"))["experiments"]}


@page("interleaving.html")
async def interleaving(view: View) -> PageValues:
    """Show the page of one experiment."""
    name = view.request.path_params["experiment"]
    return {"name": name, "source": view.url(f"/learning/interleavings/{segment(name)}/result")}


@panel("interleaving_result.html")
async def interleaving_result(view: View) -> PageValues:
    """Show which ranking people prefer, and the latest drafts."""
    path = f"/v1/interleavings/{segment(view.request.path_params['experiment'])}"
    return {"found": await view.get(path), "drafts": (await view.get(f"{path}/drafts", limit=20))["drafts"]}


ROUTES = (
    Route("/learning", learning),
    Route("/learning/propensities", propensities),
    Route("/learning/judgments", judgments),
    Route("/learning/weights", weights),
    Route("/learning/interleavings", interleavings),
    Route("/learning/interleavings/{experiment}", interleaving),
    Route("/learning/interleavings/{experiment}/result", interleaving_result),
)
