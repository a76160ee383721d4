"""Reports over the last hours, for a command."""

from datetime import UTC, datetime, timedelta

from readers.reports import Report, run_report
from runtime import clickhouse
from runtime.settings import Settings
from tally.answering import asked


def report(settings: Settings, name: str, namespace: str, hours: float) -> Report:
    """Run a report over the last `hours`, by time of recording. Raises Unavailable when ClickHouse does not answer."""
    until = datetime.now(UTC) + timedelta(minutes=1)  # a broker's clock may be ahead of ours

    async def run() -> Report:
        async with clickhouse.connect(settings) as database:
            return await run_report(database, name, namespace, until - timedelta(hours=hours), until)

    return asked(settings, ["clickhouse"], run)
