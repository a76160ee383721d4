"""Arrow record batches from pieces of any size."""

import io
from collections.abc import AsyncIterator
from typing import Literal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from learning.arrow_stream import record_batches


def encoded(tables: list[pa.Table], compression: Literal["lz4"] | None) -> bytes:
    file = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(file, tables[0].schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)
    return file.getvalue()


async def in_pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@given(st.lists(st.lists(st.text(max_size=50), max_size=5), min_size=1, max_size=5), st.integers(1, 300), st.booleans())
@examples(max_examples=30)
async def test_batches_are_read_from_any_pieces(texts: list[list[str]], size: int, is_compressed: bool) -> None:
    tables = [pa.table({"a": pa.array(each, pa.string()), "b": pa.array([each] * len(each))}) for each in texts]
    tables = [table.cast(pa.schema([("a", pa.string()), ("b", pa.list_(pa.string()))])) for table in tables]
    data = encoded(tables, "lz4" if is_compressed else None)
    found = [batch.to_pylist() async for batch in record_batches(in_pieces(data, size))]
    assert [row for batch in found for row in batch] == [row for table in tables for row in table.to_pylist()]


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    data = encoded([pa.table({"a": [1, 2, 3]})], None)
    for end in (0, 4, 100, len(data) - 20):
        with pytest.raises(ValueError, match="has no end"):
            _ = [batch async for batch in record_batches(in_pieces(data[:end], 64))]
