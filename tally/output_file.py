"""Files that appear under their name once they are complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from runtime.errors import TallyError


@contextmanager
def complete_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside its own. At the end of the block it is on disk, under its own name.

    After an error nothing is left. Raises TallyError for a file that exists, unless `force`, and for one that cannot
    be written.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise TallyError(f"{path} is not a regular file: write to standard output instead (--output -)")
    if target.exists() and not force:
        raise TallyError(f"{path} exists: --force replaces it")
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
