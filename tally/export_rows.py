"""Counters of the rows of an export, from its bytes as they pass."""

from typing import Protocol

from readers.export_format import ExportFormat
from tally.thrift import integer_field

FOOTER_BYTES = 4 * 1024 * 1024
"""Largest Parquet footer whose rows are counted; it describes some 100 million rows."""
_MAGIC = b"PAR1"
_SIZE_BYTES = 4
_NUM_ROWS = 3
"""Field of the number of rows in Parquet's FileMetaData."""


class RowCounter(Protocol):
    """Counter of the rows of one export."""

    def add(self, piece: bytes) -> None:
        """Count in the next bytes."""

    @property
    def rows(self) -> int | None:
        """Rows so far; None if unknown."""


def counter_of(output: ExportFormat) -> RowCounter:
    """Return a counter for a format."""
    counters: dict[ExportFormat, type[RowCounter]] = {
        "jsonl": LineCounter,
        "csv": CsvCounter,
        "parquet": ParquetCounter,
    }
    return counters[output]()


class LineCounter:
    """Counter of lines."""

    def __init__(self) -> None:
        self._lines = 0

    def add(self, piece: bytes) -> None:
        """Count in the next bytes."""
        self._lines += piece.count(b"\n")

    @property
    def rows(self) -> int | None:
        """Lines so far."""
        return self._lines


class CsvCounter:
    """Counter of CSV records after the header. A line break within quotes ends no record."""

    def __init__(self) -> None:
        self._lines = 0
        self._is_quoted = False

    def add(self, piece: bytes) -> None:
        """Count in the next bytes."""
        parts = piece.split(b'"')
        outside = parts[1::2] if self._is_quoted else parts[::2]
        self._lines += sum(part.count(b"\n") for part in outside)
        self._is_quoted ^= len(parts) % 2 == 0

    @property
    def rows(self) -> int | None:
        """Records so far."""
        return max(0, self._lines - 1)


class ParquetCounter:
    """Reader of the number of rows in a Parquet file's footer."""

    def __init__(self) -> None:
        self._tail = bytearray()

    def add(self, piece: bytes) -> None:
        """Keep the end of the bytes so far."""
        self._tail += piece
        del self._tail[:-FOOTER_BYTES]

    @property
    def rows(self) -> int | None:
        """Rows of the whole file; None before its end, and if its footer is larger than FOOTER_BYTES."""
        end = len(self._tail) - len(_MAGIC) - _SIZE_BYTES
        if end < 0 or not self._tail.endswith(_MAGIC):
            return None
        begin = end - int.from_bytes(self._tail[end : end + _SIZE_BYTES], "little")
        try:
            return integer_field(self._tail, begin, _NUM_ROWS) if begin >= 0 else None
        except (IndexError, ValueError):  # these bytes in the middle of the file are no footer
            return None
