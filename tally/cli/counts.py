"""`tally learn counts`: the counts that weights are learned from."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tally.cli.options import AsJson, DataDir, Namespace, answer_json, load_settings, needs
from tally.cli.output import counted, out, progress_bar, say, table

if TYPE_CHECKING:
    from learning.weights.count_check import CountCheck, CountStatus
    from runtime.clickhouse import ClickHouse
    from runtime.settings import Settings

_NOT_COUNTED_YET = "not counted yet"


@needs("learning")
def counts(
    recount: Annotated[bool, typer.Option("--recount", help="Count days again now, and all touched ones.")] = False,
    days: Annotated[
        int | None, typer.Option(help="Only the last days by event time, with --recount. Default: all.", min=1)
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Count all days from scratch and compare: exit 1 where they differ.")
    ] = False,
    namespace: Namespace = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show the counts that weights are learned from: of each retriever with a learning configuration, by day.

    API processes count by themselves. A --recount that is interrupted is continued by the next one, or by them.

    Examples:
        tally learn counts
        tally learn counts --recount --days 30
        tally learn counts --verify --namespace shop
    """
    if days is not None and not recount:
        raise typer.BadParameter("is of use with --recount only", param_hint="--days")
    if recount and verify:
        raise typer.BadParameter("choose --recount or --verify", param_hint="--verify")
    settings = load_settings(data_dir, "clickhouse")
    space = namespace or settings.namespace
    if verify:
        found = _verify(settings, space)
        _answer_check(space, found, as_json=as_json)
        raise typer.Exit(1 if found.differing else 0)
    if recount:
        _recount(settings, space, days)
    _answer_status(space, _status(settings, space), as_json=as_json)


def _status(settings: "Settings", namespace: str) -> "CountStatus":
    from learning.weights.count_check import count_status
    from tally.answering import queried

    return queried(settings, lambda database: count_status(settings, database, namespace))


def _recount(settings: "Settings", namespace: str, days: int | None) -> None:
    from learning.weights.aggregates import recount_days
    from tally.answering import queried

    first_day = (
        0 if days is None else (datetime.now(UTC) - timedelta(days=days - 1) - datetime(1970, 1, 1, tzinfo=UTC)).days
    )
    with progress_bar() as bar:
        show = _progress(bar, "counting days")

        async def run(database: "ClickHouse") -> tuple[int, int]:
            return await recount_days(settings, database, namespace, first_day, show)

        number, rows = queried(settings, run)
    say(f"{counted(number, 'day')} counted, {counted(rows, 'row')}")


def _verify(settings: "Settings", namespace: str) -> "CountCheck":
    from learning.weights.count_check import check_counts
    from tally.answering import queried

    with progress_bar() as bar:
        show = _progress(bar, "days compared")
        return queried(settings, lambda database: check_counts(settings, database, namespace, show))


def _progress(bar: Any, description: str) -> Callable[[int, int], None]:
    task = bar.add_task(description, total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


def _answer_status(namespace: str, found: "CountStatus", *, as_json: bool) -> None:
    as_of = found.as_of
    age_s = (datetime.now(UTC) - as_of).total_seconds() if as_of else None
    if as_json:
        retrievers = [
            each._asdict() | {"first_day": _date(each.first_day), "last_day": _date(each.last_day)}
            for each in found.retrievers
        ]
        answer_json({
            "namespace": namespace, "generation": found.generation, "as_of": as_of, "age_s": age_s,
            "retrievers": retrievers,
        })  # fmt: skip
        return
    if not found.retrievers:
        say(f"namespace {namespace} has no learning configurations")
        return
    names = ("retriever", "days", "pending", "failed", "results", "first day", "last day")
    as_of_text = f"contains every event stored before {as_of:%Y-%m-%d %H:%M:%S} UTC" if as_of else _NOT_COUNTED_YET
    caption = [f"generation {found.generation}", f"{as_of_text}{f', {age_s:,.0f} s ago' if age_s is not None else ''}"]
    shown = table(*names, title=f"Counts of namespace {namespace}", caption=caption, right=range(1, 5), keep=names[:3])
    for each in found.retrievers:
        ends = (_date(each.first_day) or "-", _date(each.last_day) or "-")
        numbers = (f"{number:,}" for number in (each.days, each.pending, each.failed, each.results))
        shown.add_row(each.retriever, *numbers, *ends)
    out.print(shown)


def _answer_check(namespace: str, found: "CountCheck", *, as_json: bool) -> None:
    if as_json:
        named = {"differing": [*map(str, found.differing)], "waiting": [*map(str, found.waiting)]}
        answer_json({"namespace": namespace, "checked": found.checked, **named})
        return
    for each in found.differing:
        say(f"{each}: the counts differ from those of the stored events")
    for each in found.waiting:
        say(f"{each}: {_NOT_COUNTED_YET}")
    right = found.checked - len(found.differing) - len(found.waiting)
    say(f"{right:,} of {counted(found.checked, 'day')} equal a count from scratch")
    if found.differing:
        say("`tally learn counts --recount` counts all days again")


def _date(day: int | None) -> str | None:
    return None if day is None else f"{date(1970, 1, 1) + timedelta(days=day)}"
