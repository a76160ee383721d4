"""Files that appear once they are complete: errors name the file that failed."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.errors import TallyError
from tally.output_file import check_target, complete_file
from tests.cli_lab import names_in


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, as those to a full disk do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("full", ["first", "last"])
def test_of_nested_files_the_one_that_failed_is_named(tmp_path: Path, full: str) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    with (
        pytest.raises(TallyError, match=f"cannot write {tmp_path}/{full}: File too large"),
        largest_file(200_000),
        complete_file(first, force=False) as one,
        complete_file(last, force=False) as other,
    ):
        (one if full == "first" else other).write(b"x" * 300_000)
    assert names_in(tmp_path) == []


def test_a_name_of_many_bytes_is_possible_and_one_that_is_too_long_refused(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    with complete_file(path, force=False) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"
    for name in ("x" * 256, "é" * 128):
        with pytest.raises(TallyError, match=r"name (is )?too long"):
            check_target(tmp_path / name, force=False)
