"""HTTP request of an export."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Response
from pydantic import BaseModel, Field

from readers.export import ExportRequest, exported
from readers.export_format import MEDIA_TYPES, ExportFormat
from readers.export_options import read_columns
from readers.filter_errors import read_filter_parameter, refused_pattern
from runtime.clickhouse import ClickHouse
from runtime.errors import StatementRefused, StatementTimeout
from runtime.http.errors import invalid, problem, unavailable
from runtime.http.in_flight import InFlightLimit
from runtime.http.streaming import StreamedResponse
from runtime.http.times import Time
from runtime.settings import Settings
from schemas.record import RECORD_FIELDS

EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}}
}
"""Entry of the export's 200 in the OpenAPI document."""


class ExportQuery(BaseModel):
    """Records to export; without conditions all records of the namespace. Times are append times."""

    since: Time | None = Field(None, description="earliest append time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="append time before which records are exported, ISO 8601")
    format: ExportFormat = "jsonl"
    filters: str | None = Field(
        None, description="filters of the list call as JSON", examples=['{"user_id": "ada", "position": {"lte": 5}}']
    )
    columns: str | None = Field(
        None, description="fields of the record, separated by commas; without it all", examples=["feature_id,timestamp"]
    )


class Exports:
    """Exports of one process, which are bounded in number and time."""

    def __init__(self, settings: Settings, database: ClickHouse) -> None:
        self._limit = InFlightLimit(settings.exports_in_flight, "exports", "TALLY_EXPORTS_IN_FLIGHT")
        self._timeout_ms = settings.export_timeout_ms
        self._database = database

    def answer(self, namespace: str, query: ExportQuery) -> Response:
        """Return the response with an export. Raises ApiError, also when the response is sent."""
        if query.since is not None and query.until is not None and query.since >= query.until:
            raise invalid([problem("conflict", ["query", "until"], "the range ends before it begins")])
        group = read_filter_parameter(query.filters)
        try:
            columns = RECORD_FIELDS if query.columns is None else read_columns(query.columns)
        except ValueError as error:
            raise invalid([problem("bad_columns", ["query", "columns"], str(error))]) from None
        wanted = ExportRequest(namespace, query.since, query.until, [group] if group else [], query.format, columns)
        headers = {
            "content-type": MEDIA_TYPES[query.format],
            "content-disposition": f'attachment; filename="interactions.{query.format}"',
        }
        return StreamedResponse(lambda: self._opened(wanted), headers)

    @asynccontextmanager
    async def _opened(self, wanted: ExportRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            with self._limit.slot():
                async with exported(self._database, wanted, self._timeout_ms) as pieces:
                    yield pieces
        except StatementTimeout:
            raise unavailable(
                "the export takes longer than TALLY_EXPORT_TIMEOUT_MS: use a shorter time range"
            ) from None
        except StatementRefused as error:
            raise refused_pattern(error, "query") from None
