"""ClickHouse's Native format (https://clickhouse.com/docs/interfaces/formats/Native): blocks of whole columns.

It is what ClickHouse itself works with: reading it takes half of what Arrow takes. Types need not be those of the
table: ClickHouse makes LowCardinality and Enum of plain texts.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer[Any]]

_CONTINUED = 0x80
"""Bit of a LEB128 byte that another byte follows."""
TEXT = "String"
TIME = "DateTime64(3, 'UTC')"
"""Milliseconds since 1970, as signed numbers of 64 bits."""

_TYPES = {"i": "Int", "u": "UInt", "f": "Float"}


class Column(NamedTuple):
    """The values of one column: its type, and its bytes in pieces."""

    type: str
    data: Sequence[bytes | npt.NDArray[Any]]


class Block(NamedTuple):
    """Some rows, as ClickHouse reads them."""

    columns: Sequence[str]
    rows: int
    raw: bytes


def block(columns: Mapping[str, Column], rows: int) -> Block:
    """Encode columns of this many rows each as one block."""
    pieces: list[Any] = [size(len(columns)), size(rows)]
    for name, column in columns.items():
        pieces += [text(name), text(column.type), *column.data]
    return Block(list(columns), rows, b"".join(pieces))


def size(number: int) -> bytes:
    """A number as LEB128."""
    written = bytearray()
    while number >= _CONTINUED:
        written.append(number & 0x7F | _CONTINUED)
        number >>= 7
    written.append(number)
    return bytes(written)


def text(value: str) -> bytes:
    """A text, its size before it. Lone surrogates, which have no UTF-8, become question marks."""
    raw = value.encode(errors="replace")
    return size(len(raw)) + raw


def texts(values: Iterable[str]) -> Column:
    """Texts, one a row."""
    return Column(TEXT, [b"".join(map(text, values))])


def same_text(value: str, rows: int) -> Column:
    """The same text in every row."""
    return Column(TEXT, [text(value) * rows])


def texts_by_number(numbers: Integers, values: Sequence[str]) -> Column:
    """For each row the text of its number."""
    if len(values) == 1:
        return same_text(values[0], len(numbers))
    written = [text(value) for value in values]
    return Column(TEXT, [b"".join(map(written.__getitem__, numbers.tolist()))])


def numbers(values: npt.NDArray[Any]) -> Column:
    """Numbers, of the array's own type."""
    return Column(f"{_TYPES[values.dtype.kind]}{values.dtype.itemsize * 8}", [np.ascontiguousarray(values)])


def times(epoch_ms: npt.NDArray[np.int64]) -> Column:
    """Times, given in milliseconds since 1970."""
    return numbers(epoch_ms)._replace(type=TIME)


def nullable(column: Column, absent: Flags) -> Column:
    """The same, null where `absent`; whatever the column has there must be of its type still."""
    return Column(f"Nullable({column.type})", [absent.view(np.uint8), *column.data])


def lists(ends: Integers, column: Column) -> Column:
    """Lists of what `column` has: where, among all of its values, each row's end."""
    return Column(f"Array({column.type})", [ends.astype(np.uint64), *column.data])
