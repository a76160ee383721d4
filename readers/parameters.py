"""Bound parameters of a ClickHouse statement."""

from datetime import datetime
from typing import Any

from schemas.event_time import to_epoch_ms


class BoundParameters:
    """Bound parameters of one statement, numbered in order."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def bind(self, value: Any, kind: str) -> str:
        """Bind a value of a ClickHouse type and return its placeholder. A time is bound as milliseconds."""
        if isinstance(value, datetime):
            return f"fromUnixTimestamp64Milli({self.bind(to_epoch_ms(value), 'Int64')}, 'UTC')"
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"{{{name}:{kind}}}"
