"""A slice of `make fuzz` in the everyday run: the same examples each time."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import main


def test_no_example_of_the_everyday_seed_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crash, a disagreement of scanner and validator, or a read outside an array would be one."""
    # Without the parts that are compiled with bounds checks: compiling them takes a minute.
    parts = [argument for name in ("scan", "rows", "batches") for argument in ("--only", name)]
    failed = main(["--seed", "17", "--examples", "40", "--state", str(tmp_path / "fuzz.json"), *parts])
    printed = capsys.readouterr().out
    assert failed == 0, printed
    assert ", 0 findings" in printed
