"""`tally capacity`."""

from typing import Annotated

import typer

from tally.capacity import EVENT_BYTES, Load, need_of
from tally.cli.options import AsJson, DataDir, answer_json, load_settings
from tally.cli.output import out, table


def capacity(
    events_per_s: Annotated[float, typer.Argument(help="Average events per second.", min=0.01, max=100_000_000)],
    peak: Annotated[float, typer.Option(help="Peak rate as a multiple of the average.", min=1, max=100)] = 3,
    days: Annotated[int, typer.Option(help="Days that stored events are kept.", min=1, max=36_500)] = 365,
    event_bytes: Annotated[
        int, typer.Option(help="Average size of an event as JSON, in bytes.", min=50, max=2_000_000)
    ] = EVENT_BYTES,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Estimate the partitions, workers, memory and disk of a load, from the measured cost of an event.

    The window (TALLY_DEDUP_WINDOW_MS) and the topic's retention (TALLY_TOPIC_RETENTION_MS) are those of the settings.

    Examples: tally capacity 10000; tally capacity 200 --days 3650 --json
    """
    settings = load_settings(data_dir)
    need = need_of(Load(events_per_s, peak=peak, days=days, event_bytes=event_bytes), settings)
    if as_json:
        answer_json(need._asdict())
        return
    title = f"{events_per_s:,.0f} events/s, {events_per_s * peak:,.0f} at the peak, {days} days"
    needed = table("part", "needs", title=title, right=True)
    for part, needs in (
        ("topic", f"{need.partitions} partitions"),
        ("workers", f"{need.workers}, {need.worker_memory_gib} GiB each"),
        ("Kafka, 3 copies", f"{need.kafka_cores} cores, {need.topic_tib} TiB"),
        ("Redis", f"{need.redis_cores} cores, {need.redis_gib} GiB"),
        ("ClickHouse, 2 copies", f"{need.clickhouse_cores} cores, {need.table_tib} TiB"),
        ("rows", f"{need.rows:,.0f}"),
    ):
        needed.add_row(part, needs)
    out.print(needed)
