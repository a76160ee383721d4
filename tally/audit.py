"""Audit of a topic, and the deep audit on request."""

from collections.abc import Callable
from datetime import datetime

from readers import audit as by_offsets
from readers.audit import PartitionAudit
from readers.deep_audit import DeepAudit, deep_audit
from runtime import clickhouse
from runtime.settings import Settings
from tally.answering import asked


def audit(
    settings: Settings,
    since: datetime | None,
    until: datetime | None,
    *,
    deep: bool,
    report: Callable[[PartitionAudit], None],
) -> tuple[list[PartitionAudit], DeepAudit | None]:
    """Audit each partition and `report` it at once. Raises Unavailable when Kafka or ClickHouse do not answer."""

    async def run() -> tuple[list[PartitionAudit], DeepAudit | None]:
        async with clickhouse.connect(settings) as database:
            partitions = []
            async for partition in by_offsets.audit(settings, database, since, until):
                partitions.append(partition)
                report(partition)
            return partitions, await deep_audit(settings, database, since, until) if deep else None

    return asked(settings, ["kafka", "clickhouse"], run)
