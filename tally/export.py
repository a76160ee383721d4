"""Export into a file or another sink, with a count of its rows and a checksum."""

import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

from readers.export import ExportRequest, exported
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementRefused, StatementTimeout, TallyError
from runtime.faults.clickhouse import CLICKHOUSE_BAD_PATTERN
from tally.export_rows import counter_of


class ExportSummary(NamedTuple):
    """Size of an export. `rows` is None for Parquet, whose bytes do not show them as they pass."""

    rows: int | None
    bytes: int
    sha256: str
    seconds: float


async def export(
    database: ClickHouse,
    request: ExportRequest,
    timeout_ms: int,
    write: Callable[[bytes], object],
    report: Callable[[int | None, int], None],
) -> ExportSummary:
    """Write an export, piece by piece. `report` gets the rows and bytes so far.

    Raises TallyError for a pattern that is no regular expression, StatementTimeout, and Unavailable.
    """
    began = time.monotonic()
    counter, digest, size = counter_of(request.format), hashlib.sha256(), 0
    try:
        async with exported(database, request, timeout_ms) as pieces:
            async for piece in pieces:
                write(piece)
                counter.add(piece)
                digest.update(piece)
                size += len(piece)
                report(counter.rows, size)
    except StatementTimeout as error:
        raise StatementTimeout(
            "the export takes longer than TALLY_EXPORT_TIMEOUT_MS: use a shorter time range"
        ) from error
    except StatementRefused as error:
        if error.code != CLICKHOUSE_BAD_PATTERN:
            raise
        raise TallyError("--where: a pattern is not a regular expression (RE2)") from error
    return ExportSummary(counter.rows, size, digest.hexdigest(), round(time.monotonic() - began, 3))
