"""Files that appear under their name once they are complete."""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.errors import TallyError

MAX_NAME_BYTES = 255
"""Largest length of a file's name on Linux and macOS."""


def check_target(path: Path, *, force: bool) -> None:
    """Raise TallyError for a file that exists, unless `force`, and for one that cannot be a file in its folder."""
    with _named_errors(path):
        if path.exists() and not path.is_file():
            raise TallyError(f"{path} is not a regular file: write to standard output instead (--output -)")
        if path.exists() and not force:
            raise TallyError(f"{path} exists: --force replaces it")
        if not path.resolve().parent.is_dir():
            raise TallyError(f"cannot write {path}: there is no folder {path.parent}")
        if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
            raise TallyError(f"cannot write {path}: the file name is too long")


@contextmanager
def complete_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside its own. At the end of the block it is on disk, under its own name.

    After an error nothing is left. Raises the errors of `check_target`, and TallyError for a file that cannot be
    written.
    """
    check_target(path, force=force)
    target = path.resolve()
    begin = os.fsdecode(os.fsencode(target.name)[:200])
    temporary = target.with_name(f".{begin}.{secrets.token_hex(4)}.part")
    try:
        with _named_errors(path):
            with _NamedWriter(io.FileIO(temporary, "xb"), path) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


class _NamedWriter(io.BufferedWriter):
    """Writer whose errors name its own file, also within the block of another one."""

    def __init__(self, raw: io.FileIO, path: Path) -> None:
        super().__init__(raw)
        self._path = path

    def write(self, data: "bytes | memoryview", /) -> int:  # type: ignore[override]
        """Write the data. Raises TallyError."""
        with _named_errors(self._path):
            return super().write(data)

    def flush(self) -> None:
        """Write the buffer. Raises TallyError."""
        with _named_errors(self._path):
            super().flush()


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raise TallyError for an OSError."""
    try:
        yield
    except OSError as error:
        raise TallyError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
