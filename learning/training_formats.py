"""Formats of training sets: Parquet, and the text formats of xgboost and LightGBM."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from learning.training_request import TrainingFormat, TrainingRequest

VALIDATION_SUFFIX = ".validation"
_SIDE_FILES: Mapping[TrainingFormat, Sequence[str]] = {
    "parquet": (),
    "libsvm": (".weight",),
    "lightgbm": (".query", ".weight", ".position"),
}


class FileDigest(NamedTuple):
    """Size and checksum of a file that was written."""

    suffix: str
    bytes: int
    sha256: str


class DigestFile(io.RawIOBase):
    """Writable file that counts its bytes and keeps their checksum. Without `file` they are written nowhere."""

    def __init__(self, suffix: str, file: BinaryIO | None) -> None:
        super().__init__()
        self._suffix = suffix
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: "bytes | memoryview", /) -> int:  # type: ignore[override]
        """Write all of the data."""
        if self._file is not None:
            self._file.write(data)
        self._digest.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._size

    def digest(self) -> FileDigest:
        """Return size and checksum."""
        return FileDigest(self._suffix, self._size, self._digest.hexdigest())


class TrainingWriter(Protocol):
    """Writer of one training set."""

    def write(self, group: pa.Table) -> None:
        """Write a group of rows."""

    def close(self) -> None:
        """Write the end of the files. They stay open."""


def suffixes_of(request: TrainingRequest) -> tuple[str, ...]:
    """Return what is added to the name of a training set for the name of each of its files.

    A text file has no column for the split, so the validation set has files of its own.
    """
    if request.format == "parquet":
        return ("",)
    parts = ([""] if request.has_train else []) + ([VALIDATION_SUFFIX] if request.has_validation else [])
    return tuple(f"{part}{side}" for part in parts for side in ("", *_SIDE_FILES[request.format]))


def writer_of(request: TrainingRequest, files: Mapping[str, DigestFile]) -> TrainingWriter:
    """Return the writer of a request's format to files, by their suffixes."""
    if request.format == "parquet":
        return ParquetTraining(files[""])
    return TextTraining(request, files)


class ParquetTraining:
    """Parquet file with a row group for each group of rows. It holds no time and no name of a machine."""

    def __init__(self, file: DigestFile) -> None:
        self._file = file
        self._writer: parquet.ParquetWriter | None = None

    def write(self, group: pa.Table) -> None:
        """Write a row group."""
        if self._writer is None:
            self._writer = parquet.ParquetWriter(
                pa.PythonFile(self._file, mode="w"), group.schema, compression="zstd", store_schema=False
            )
        self._writer.write_table(group, row_group_size=len(group))

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


class TextTraining:
    """Text files with `label qid:N index:value ... # "execution" "document"` (libsvm), or `label index:value ...`.

    Features are numbered from 1; one that is null is left out. The second form, for LightGBM, has the sizes of the
    executions in FILE.query, and positions in FILE.position. Weights are in FILE.weight: one line for each row, but for
    libsvm one for each execution, since xgboost weighs groups. The rows of an execution have the same weight.
    """

    def __init__(self, request: TrainingRequest, files: Mapping[str, DigestFile]) -> None:
        self._request = request
        self._files = files
        self._execution: tuple[str, str] | None = None
        """Split and id of the last execution written."""
        self._number = 0
        self._rows_of_last = 0

    def write(self, group: pa.Table) -> None:
        """Write the rows of a group."""
        for split, suffix in (("train", ""), ("validation", VALIDATION_SUFFIX)):
            rows = group.filter(pc.equal(group.column("split"), pa.scalar(split)))
            if rows.num_rows:
                self._write_part(rows, split, suffix)

    def close(self) -> None:
        """Write the size of the last execution."""
        self._end_execution()

    def _write_part(self, rows: pa.Table, split: str, suffix: str) -> None:
        executions = [str(each) for each in rows.column("qid").to_pylist()]
        last = self._number if self._execution is not None and self._execution[0] == split else 0
        numbers = [self._number_of(split, execution) for execution in executions]
        self._put(suffix, self._lines(rows, executions, numbers))
        weights = rows.column("weight").to_pylist()
        if self._request.format == "libsvm":
            before = [last, *numbers[:-1]]
            weights = [each for each, own, other in zip(weights, numbers, before, strict=True) if own != other]
        self._put(f"{suffix}.weight", map(repr, weights))
        if f"{suffix}.position" in self._files:
            self._put(f"{suffix}.position", map(str, rows.column("position").to_pylist()))

    def _number_of(self, split: str, execution: str) -> int:
        """Return the number of the execution of the next row, from 1 in each split."""
        if self._execution != (split, execution):
            self._end_execution()
            self._number = 1 if self._execution is None or self._execution[0] != split else self._number + 1
            self._execution = split, execution
        self._rows_of_last += 1
        return self._number

    def _end_execution(self) -> None:
        if self._execution is not None and self._rows_of_last:
            name = f"{'' if self._execution[0] == 'train' else VALIDATION_SUFFIX}.query"
            if name in self._files:
                self._put(name, [str(self._rows_of_last)])
        self._rows_of_last = 0

    def _lines(self, rows: pa.Table, executions: Sequence[str], numbers: Sequence[int]) -> Iterator[str]:
        labels = map(repr, rows.column("label").to_pylist())
        features = [
            ["" if value is None else f" {number}:{value!r}" for value in rows.column(name).to_pylist()]
            for number, name in enumerate(self._request.features, 1)
        ]
        values = ["".join(row) for row in zip(*features, strict=True)] if features else [""] * rows.num_rows
        if self._request.format == "lightgbm":
            for label, own in zip(labels, values, strict=True):
                yield f"{label}{own}"
            return
        documents = rows.column("document").to_pylist()
        for label, number, own, execution, document in zip(labels, numbers, values, executions, documents, strict=True):
            yield f"{label} qid:{number}{own} # {json.dumps(execution)} {json.dumps(document)}"

    def _put(self, suffix: str, lines: "Iterator[str] | Sequence[str] | map[str]") -> None:
        self._files[suffix].write("".join(f"{line}\n" for line in lines).encode())
