"""Rows to export, and exports read back by independent readers of each format."""

import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow.parquet

from readers.export import ExportRequest, exported
from readers.export_format import ExportFormat
from runtime.clickhouse import ClickHouse
from schemas.event_time import iso_ms, parse_time_or_day
from schemas.interaction import OBJECT_FIELDS
from schemas.record import RECORD_FIELDS

TEXT = 'say "a, b"\r\n\t\\N \\ \' ; =1+1 \x00\x01\x1b[31m\x7f\x85\u2028\u202eabc שלום مرحبا 👩‍👩‍👧 \ufeff\ufffd'
"""Characters that formats quote, escape, or confuse with their own."""

Record = dict[str, Any]


async def insert_many(database: ClickHouse, rows: int, namespace: str = "default") -> None:
    """Rows a second apart from 2026-01-01, with ids in this order, of about 500 bytes as JSON."""
    await database.command(
        "INSERT INTO interactions (namespace, interaction_id, feature_id, interaction_type, position, metadata, "
        "user_id, timestamp, _topic, _offset) "
        "SELECT {namespace:String}, concat('int_', leftPad(toString(number), 32, '0')), "
        "concat('doc-', toString(number % 1000)), ['click'], number % 20, '{\"device\":\"phone\"}', "
        "concat('user-', toString(number % 1000)), toDateTime64('2026-01-01', 3, 'UTC') + toIntervalSecond(number), "
        "'t', number FROM numbers({rows:UInt64})",
        {"namespace": namespace, "rows": rows},
    )


async def export_bytes(database: ClickHouse, request: ExportRequest) -> bytes:
    """All bytes of an export."""
    async with exported(database, request, 60_000) as pieces:
        return b"".join([piece async for piece in pieces])


def read_back(data: bytes, output: ExportFormat) -> list[Record]:
    """The records of an export in this format, as the API would answer them."""
    if output == "jsonl":
        return [json.loads(line) for line in data.decode().split("\n")[:-1]]
    if output == "csv":
        return [_from_texts(row) for row in csv.DictReader(io.StringIO(data.decode(), newline=""))]
    return [_from_values(row) for row in pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()]


def _from_texts(row: dict[str, str]) -> Record:
    """A record of CSV, whose empty texts are null."""
    found: Record = {name: value or None for name, value in row.items()}
    for name in (*OBJECT_FIELDS, "interaction_type", "position", "document_score", "result_set_size", "deduplicated"):
        if found.get(name):
            found[name] = json.loads(found[name])
    return found


def _from_values(row: Record) -> Record:
    for name, value in row.items():
        if isinstance(value, datetime):
            row[name] = iso_ms(value)
        elif name in OBJECT_FIELDS and value is not None:
            row[name] = json.loads(value)
    return row


def request_of(
    output: ExportFormat = "jsonl",
    since: str | None = None,
    until: str | None = None,
    filters: Sequence[Any] = (),
    columns: Sequence[str] = RECORD_FIELDS,
    namespace: str = "default",
) -> ExportRequest:
    """A request with times as texts."""
    begin, end = (None if text is None else parse_time_or_day(text) for text in (since, until))
    return ExportRequest(namespace, begin, end, filters, output, columns)
