"""Bounds and parameters of statements over a range of events: reports, and everything that is learned from events."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from runtime.clickhouse import ClickHouse
from runtime.errors import StatementTimeout, TallyError, Unavailable
from runtime.settings import Settings

_MEMORY = "clickhouse 241"
_SPILLED_SHARE = 4
"""Share of the memory, as a divisor, from which groups and sorts go to disk."""


class RangeTooLarge(TallyError):
    """Range whose statement exceeds its time or memory. The message names the setting."""

    exit_code = 2


def report_limits(settings: Settings) -> dict[str, Any]:
    """Return the ClickHouse settings that bound a statement over a range."""
    timeout_ms = min(settings.report_timeout_ms, max(1_000, settings.query_timeout_ms - 1_000))
    spilled = settings.report_memory_bytes // _SPILLED_SHARE
    return {
        "max_execution_time": timeout_ms / 1000,
        "max_memory_usage": settings.report_memory_bytes,
        "max_bytes_before_external_group_by": spilled,
        "max_bytes_before_external_sort": spilled,
    }


@asynccontextmanager
async def bounded_stream(
    settings: Settings,
    database: ClickHouse,
    sql: str,
    parameters: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Yield the pieces of the result of a statement over a range, within `report_limits`. `own`: further settings."""
    limits = report_limits(settings)
    async with database.stream(
        sql, parameters, settings={**limits, **(own or {})}, timeout_s=limits["max_execution_time"]
    ) as pieces:
        yield pieces


def range_parameters(namespace: str, since: datetime, until: datetime) -> dict[str, str]:
    """Return the bound parameters of `schemas.analytics.base.RANGE`."""
    return {"namespace": namespace, "since": _clickhouse_time(since), "until": _clickhouse_time(until)}


@contextmanager
def range_errors(settings: Settings, name: str) -> Iterator[None]:
    """Raise RangeTooLarge for a statement that exceeds its bounds. `name`: of the result, such as "the report"."""
    try:
        yield
    except StatementTimeout:
        raise RangeTooLarge(
            f"{name} takes longer than {settings.report_timeout_ms:,} ms: choose a shorter range, or raise "
            "TALLY_REPORT_TIMEOUT_MS (and TALLY_QUERY_TIMEOUT_MS above it)"
        ) from None
    except Unavailable as error:
        if error.kind != _MEMORY:
            raise
        raise RangeTooLarge(
            f"{name} needs more than {settings.report_memory_bytes:,} bytes of memory in ClickHouse: choose a shorter "
            "range, or raise TALLY_REPORT_MEMORY_BYTES"
        ) from None


def _clickhouse_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
