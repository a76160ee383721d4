"""Reading blocks of ClickHouse's Native format, with the reader of its own client."""

from typing import Any

from clickhouse_connect.driver.ctypes import RespBuffCls
from clickhouse_connect.driver.query import QueryContext
from clickhouse_connect.driver.transform import NativeTransform

from consumers.native_format import Block


class _Source:
    def __init__(self, raw: bytes) -> None:
        self.gen = iter([raw])

    def close(self) -> None:
        pass


def rows_of(block: Block) -> list[dict[str, Any]]:
    """The rows of a block."""
    if not block.rows:
        return []
    source: Any = RespBuffCls(_Source(block.raw))  # type: ignore[no-untyped-call]
    result: Any = NativeTransform.parse_response(source, QueryContext(tz_mode="aware"))
    return list(result.named_results())
