"""Reports: analytics views by name, over a range of append times."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # the command line reads the names of the reports, and must not load the client for that
    from runtime.clickhouse import ClickHouse


class Report(NamedTuple):
    """Rows of a report. `label` and `value` name the columns that a plot shows."""

    name: str
    title: str
    columns: list[str]
    rows: list[Any]
    label: str
    value: str


class _View(NamedTuple):
    view: str
    title: str
    columns: str
    """Columns of the view in order, because an empty result has no column names."""
    label: str
    value: str


_CLICK_THROUGH = "impressions clicks clicks_without_impression click_through"


_VIEWS = {
    "positions": _View(
        "click_through_by_position",
        "Click-through by position",
        f"position {_CLICK_THROUGH}",
        "position",
        "click_through",
    ),
    "retrievers": _View(
        "click_through_by_retriever",
        "Click-through by retriever",
        f"retriever_id {_CLICK_THROUGH}",
        "retriever_id",
        "click_through",
    ),
    "types": _View(
        "counts_by_type_and_hour", "Interactions by type and hour", "hour type interactions", "type", "interactions"
    ),
    "verdicts": _View(
        "verdicts_by_hour",
        "Stored, duplicate, rejected and moved by hour",
        "hour stored duplicates rejected moved duplicate_rate rejection_rate",
        "hour",
        "duplicate_rate",
    ),
}
REPORTS = {name: view.title for name, view in _VIEWS.items()}


async def run_report(database: "ClickHouse", name: str, namespace: str, since: datetime, until: datetime) -> Report:
    """Run a report over events recorded from `since` up to, excluding, `until`. Raises KeyError for an unknown name."""
    chosen = _VIEWS[name]
    columns = chosen.columns.split()
    sql = (
        f"SELECT {', '.join(columns)} FROM {chosen.view}(namespace = {{namespace:String}}, "
        "since = {since:DateTime64(3)}, until = {until:DateTime64(3)})"
    )
    rows = await database.rows(
        sql, {"namespace": namespace, "since": _clickhouse_time(since), "until": _clickhouse_time(until)}
    )
    return Report(name, chosen.title, columns, list(rows), chosen.label, chosen.value)


def _clickhouse_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
