"""Counters of the rows of an export, from its bytes as they pass."""

from pathlib import Path
from typing import Protocol

from readers.export_format import ExportFormat


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
        "parquet": NoCounter,
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


class NoCounter:
    """Counter of a format whose rows cannot be counted in its bytes as they pass."""

    rows: int | None = None

    def add(self, piece: bytes) -> None:
        """Ignore the next bytes."""


def rows_of_parquet(path: Path) -> int | None:
    """Return the number of rows in a Parquet file; None without the package pyarrow (extra `plot`)."""
    try:
        from pyarrow import parquet  # noqa: PLC0415  (optional)
    except ModuleNotFoundError:
        return None
    return int(parquet.read_metadata(path).num_rows)
