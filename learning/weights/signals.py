"""Signals of a retriever: recorded decisions, as the published client reads them."""

import json
from datetime import datetime
from typing import Any, NamedTuple

from runtime.clickhouse import BoundParameters, ClickHouse
from schemas.event_time import iso_ms
from schemas.tables import SIGNALS

MAX_SIGNALS = 1_000
MAX_HOURS = 720


class RecordedSignal(NamedTuple):
    """Recorded decision."""

    timestamp: datetime
    execution_id: str
    """Empty: the caller named none."""
    signal_type: str
    signal_data: Any
    metadata: Any
    """None: there is none."""

    def body(self) -> dict[str, Any]:
        """Return the signal as JSON values."""
        return {**self._asdict(), "timestamp": iso_ms(self.timestamp)}


async def read_signals(
    database: ClickHouse, namespace: str, retriever: str, signal_type: str | None, since: datetime, limit: int
) -> list[RecordedSignal]:
    """Return the newest signals since a time, the newest first. `signal_type`: None for all. Raises Unavailable."""
    bind = BoundParameters()
    conditions = [
        f"namespace = {bind.bind(namespace, 'String')}",
        f"retriever_id = {bind.bind(retriever, 'String')}",
        f"timestamp >= {bind.bind(since, 'Int64')}",
    ]
    if signal_type is not None:
        conditions.append(f"signal_type = {bind.bind(signal_type, 'String')}")
    rows = await database.rows(
        f"SELECT timestamp, execution_id, signal_type, signal_data, metadata FROM {SIGNALS} FINAL "
        f"WHERE {' AND '.join(conditions)} ORDER BY timestamp DESC, signal_id LIMIT {bind.bind(limit, 'UInt32')}",
        bind.values,
    )
    return [
        RecordedSignal(timestamp, execution, kind, json.loads(data), json.loads(metadata) if metadata else None)
        for timestamp, execution, kind, data, metadata in rows
    ]
