"""Integer fields of structs in Thrift's compact protocol, in which Parquet writes its footer.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from collections.abc import Iterator

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_INTEGERS = (_I16, _I32, _I64)
_DOUBLE_BYTES = 8
_LONG_LIST = 15
"""Size of a list whose true size follows as a varint."""


def integer_field(data: bytes | bytearray, at: int, wanted: int) -> int | None:
    """Return an integer field of the struct that begins at a position; None without it.

    Raises IndexError and ValueError for bytes that are no such struct.
    """
    reader = _Reader(data, at)
    for number, kind in reader.fields():
        if number == wanted and kind in _INTEGERS:
            return reader.signed()
        reader.skip(kind)
    return None


class _Reader:
    def __init__(self, data: bytes | bytearray, at: int) -> None:
        self._data = data
        self._at = at

    def fields(self) -> Iterator[tuple[int, int]]:
        """Yield the number and type of each field of a struct. Its value must be read or skipped."""
        number = 0
        while header := self._byte():
            number = number + (header >> 4) if header >> 4 else self.signed()
            yield number, header & 0xF

    def skip(self, kind: int) -> None:
        """Skip a value."""
        if kind in (_TRUE, _FALSE):  # the type is the value
            return
        if kind == _BYTE:
            self._at += 1
        elif kind in _INTEGERS:
            self._unsigned()
        elif kind == _DOUBLE:
            self._at += _DOUBLE_BYTES
        elif kind == _BINARY:
            size = self._unsigned()
            self._at += size
        elif kind in (_LIST, _SET):
            self._skip_list()
        elif kind == _STRUCT:
            for _number, member in self.fields():
                self.skip(member)
        else:
            raise ValueError(f"type {kind} is not in a Parquet footer")

    def _skip_list(self) -> None:
        header = self._byte()
        size, kind = header >> 4, header & 0xF
        for _ in range(self._unsigned() if size == _LONG_LIST else size):
            self.skip(_BYTE if kind in (_TRUE, _FALSE) else kind)

    def signed(self) -> int:
        """Read an integer in zigzag form."""
        value = self._unsigned()
        return value >> 1 ^ -(value & 1)

    def _unsigned(self) -> int:
        value, shift = 0, 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]
