"""Files that appear under their name once they are complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.errors import TallyError


def check_target(path: Path, *, force: bool) -> None:
    """Raise TallyError for a file that exists, unless `force`, and for one that cannot be a file in its folder."""
    if path.exists() and not path.is_file():
        raise TallyError(f"{path} is not a regular file: write to standard output instead (--output -)")
    if path.exists() and not force:
        raise TallyError(f"{path} exists: --force replaces it")
    if not path.resolve().parent.is_dir():
        raise TallyError(f"cannot write {path}: there is no folder {path.parent}")


@contextmanager
def complete_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside its own. At the end of the block it is on disk, under its own name.

    After an error nothing is left. Raises the errors of `check_target`, and TallyError for a file that cannot be
    written.
    """
    check_target(path, force=force)
    target = path.resolve()
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise TallyError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
