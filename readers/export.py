"""Export: all records of a time range that meet a filter, in one of three formats, as a stream of bytes.

ClickHouse reads the rows in the order of the table's key, merges versions of a row as it goes, and formats them, so
that neither it nor this process holds the result. JSONL has the record of the API on each line. In CSV and Parquet a
record has the same fields, with objects as JSON text.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from readers.export_format import ExportFormat
from readers.filter_sql import where
from readers.filters import Filter, Group
from runtime.clickhouse import BoundParameters, ClickHouse
from schemas.fields import FieldKind
from schemas.interaction import FIELDS, NO_FEATURE_URI
from schemas.record import RECORD_FIELDS
from schemas.sql_text import literal
from schemas.tables import INTERACTIONS

ROWS_TOGETHER = 512
"""Rows of one block. A block of the largest records (128 KiB of objects each) has 64 MiB."""

_KEY = "namespace, interaction_id, _topic, _partition, _offset"
_KINDS: Mapping[str, FieldKind] = {
    **{field.name: field.kind for field in FIELDS}, "interaction_id": "text", "timestamp": "time"
}  # fmt: skip
_SETTINGS: Mapping[str, object] = {
    # One thread reads in the order of the key without a buffer, and leaves the other cores to lookups.
    "max_threads": 1,
    "max_block_size": ROWS_TOGETHER,
    # A column's name in a condition means the column, not the expression that is exported under its name.
    "prefer_column_name_to_alias": 1,
    "date_time_output_format": "iso",
    "output_format_json_escape_forward_slashes": 0,
    "output_format_json_validate_utf8": 1,
    "format_csv_null_representation": "",
    "output_format_csv_crlf_end_of_line": 0,
    "output_format_parquet_compression_method": "zstd",
    "output_format_parquet_row_group_size_bytes": 64 * 1024 * 1024,
}


class ExportRequest(NamedTuple):
    """Records to export: of one namespace, appended from `since` up to, excluding, `until`; None: without that end."""

    namespace: str
    since: datetime | None
    until: datetime | None
    filters: Sequence[Filter]
    format: ExportFormat
    columns: Sequence[str] = RECORD_FIELDS


@asynccontextmanager
async def exported(
    database: ClickHouse, request: ExportRequest, timeout_ms: int
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Yield the bytes of an export in pieces, in the order of interaction ids.

    On entry the query has begun. Raises Unavailable and StatementRefused, also between pieces, and StatementTimeout
    when the export, with its reader, takes longer than `timeout_ms`.
    """
    sql, parameters = _statement(request)
    async with database.stream(sql, parameters, settings=_SETTINGS, timeout_s=timeout_ms / 1000) as pieces:
        yield _with_header(request, pieces)


async def _with_header(request: ExportRequest, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if request.format == "csv":
        yield f"{','.join(request.columns)}\n".encode()
    async for piece in pieces:
        yield piece


def _statement(request: ExportRequest) -> tuple[str, dict[str, Any]]:
    bind = BoundParameters()
    selected, output = _OUTPUTS[request.format](request.columns)
    conditions = [f"namespace = {bind.bind(request.namespace, 'String')}"]
    if request.since is not None:
        conditions.append(f"timestamp >= {bind.bind(request.since, 'time')}")
    if request.until is not None:
        conditions.append(f"timestamp < {bind.bind(request.until, 'time')}")
    conditions.append(where(Group(tuple(request.filters)), bind))
    sql = (
        f"SELECT {selected} FROM {INTERACTIONS} FINAL WHERE {' AND '.join(conditions)} ORDER BY {_KEY} FORMAT {output}"
    )
    return sql, bind.values


def _jsonl(columns: Sequence[str]) -> tuple[str, str]:
    members = ", ',', ".join(f"{literal(json.dumps(name) + ':')}, {_as_json(name)}" for name in columns)
    return f"concat('{{', {members}, '}}')", "TSVRaw"


def _as_json(name: str) -> str:
    """Return the expression of a field's JSON text, on one line."""
    if name == "deduplicated":
        return "'false'"
    if name == "warning":
        return f"if(isNull(feature_uri), {literal(json.dumps(NO_FEATURE_URI))}, 'null')"
    if _KINDS[name] == "object":  # stored as written, perhaps with line breaks between its members
        return rf"if(empty({name}), 'null', translate({name}, '\r\n', '  '))"
    return f"ifNull(toJSONString({name}), 'null')"


def _csv(columns: Sequence[str]) -> tuple[str, str]:
    def value(name: str) -> str:
        return f"toJSONString({name})" if _KINDS.get(name) == "types" else _typed(name)

    return ", ".join(map(value, columns)), "CSV"


def _parquet(columns: Sequence[str]) -> tuple[str, str]:
    return ", ".join(f"{_typed(name)} AS {name}" for name in columns), "Parquet"


def _typed(name: str) -> str:
    """Return the expression of a field's value, null for an absent one, in a plain type."""
    if name == "deduplicated":
        return "false"
    if name == "warning":
        return f"if(isNull(feature_uri), {literal(NO_FEATURE_URI)}, NULL)"
    kind = _KINDS[name]
    if kind == "object":
        return f"nullIf({name}, '')"
    if kind == "types":
        return f"CAST({name}, 'Array(String)')"
    # Without LowCardinality, which Parquet would show as a dictionary.
    return f"CAST({name}, '{'Nullable(String)' if name in _NULLABLE else 'String'}')" if kind == "text" else name


_NULLABLE = {field.name for field in FIELDS if field.nullable}
_OUTPUTS: Mapping[ExportFormat, Callable[[Sequence[str]], tuple[str, str]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}
