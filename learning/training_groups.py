"""Rows of a training set in groups that depend on the rows alone, however they arrive."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

GROUP_ROWS = 65_536
GROUP_BYTES = 64 * 1024 * 1024


class RowGroups:
    """Groups of GROUP_ROWS rows, or of fewer that reach GROUP_BYTES: the bound of the memory of one group."""

    def __init__(self) -> None:
        self._held: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the groups that these rows complete. Dictionaries become plain columns."""
        sizes = _sizes(table)
        while len(sizes):
            by_bytes = int(np.searchsorted(np.cumsum(sizes), GROUP_BYTES - self._bytes)) + 1
            size = min(by_bytes, GROUP_ROWS - self._rows, len(sizes))
            self._held.append(table.slice(0, size))
            self._rows += size
            self._bytes += int(sizes[:size].sum())
            table, sizes = table.slice(size), sizes[size:]
            if self._rows == GROUP_ROWS or self._bytes >= GROUP_BYTES:
                yield from self.end()

    def end(self) -> Iterator[pa.Table]:
        """Yield the rows that are left as a group, if there are any."""
        if self._held:
            yield pa.concat_tables([_plain(table) for table in self._held]).combine_chunks()
        self._held, self._rows, self._bytes = [], 0, 0


def _sizes(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the size of each row in bytes: texts, and 8 for each other column."""
    sizes = np.full(table.num_rows, 8 * table.num_columns, np.int64)
    for column in table.columns:
        chunk: Any
        for chunk, start in zip(column.chunks, np.cumsum([0, *map(len, column.chunks)]).tolist(), strict=False):
            if isinstance(chunk, pa.DictionaryArray):
                dictionary: Any = chunk.dictionary
                lengths = pc.binary_length(dictionary).to_numpy()[chunk.indices.to_numpy()]
            elif pa.types.is_string(chunk.type):
                lengths = pc.binary_length(chunk).to_numpy()
            else:
                continue
            sizes[start : start + len(chunk)] += lengths
    return sizes


def _plain(table: pa.Table) -> pa.Table:
    fields = [
        pa.field(field.name, field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))
