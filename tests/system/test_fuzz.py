"""A slice of `make fuzz` in the everyday run: the same examples each time."""

import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.guard import PAGE, Region
from tests.fuzz.parts import Counts
from tests.fuzz.runner import Job, Runner
from tests.fuzz.values import Values

SEED = 7
CRASHING = f"{__name__}:crashing"


def test_examples_of_a_fixed_seed_have_no_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crash, a disagreement of scanner and validator, or a read outside an array would be one."""
    # Without the parts that are compiled with bounds checks: compiling them takes a minute.
    parts = [argument for name in ("scan", "rows", "batches") for argument in ("--only", name)]
    failed = main(["--seed", "17", "--examples", "40", "--state", str(tmp_path / "fuzz.json"), *parts])
    printed = capsys.readouterr().out
    assert failed == 0, printed
    assert ", 0 findings" in printed


def test_an_example_depends_on_its_seed_only() -> None:
    first, second = (Values(Random("7 rows 3")) for _ in range(2))
    assert [first.value() for _ in range(50)] == [second.value() for _ in range(50)]


@pytest.mark.parametrize("outside", [-1, 0])
def test_a_byte_outside_of_an_array_cannot_be_read(outside: int) -> None:
    """Neither the one before an array at the first page nor the one after an array at the last."""
    script = (
        "import ctypes; from tests.fuzz.guard import Region; "
        f"array = Region(100).array(100, 'u1', at_end={outside == 0}); "
        f"ctypes.string_at(array.ctypes.data + {outside if outside else 100}, 1)"
    )
    ran = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, timeout=60)
    assert ran.returncode == -signal.SIGSEGV


def test_all_of_an_array_can_be_used() -> None:
    for at_end in (True, False):
        array = Region(3 * PAGE).array((5, 100), np.int64, at_end=at_end)
        array[:] = 7
        assert array.sum() == 3_500


def crashing() -> Callable[[Random], Counts]:
    """A part that reads from nowhere in example 1, and is wrong in example 3."""
    number_of = {Random(f"{SEED} {CRASHING} {number}").random(): number for number in range(10)}

    def run(random: Random) -> Counts:
        number = number_of[random.random()]
        if number == 1:
            ctypes.string_at(1, 1)
        assert number != 3, "planted"
        return Counts(values=10)

    return run


def broken() -> Callable[[Random], Counts]:
    """A part that cannot be made ready."""
    raise RuntimeError("planted")


def endless() -> Callable[[Random], Counts]:
    """A part whose second example does not end."""
    seen = iter(range(10))

    def run(_random: Random) -> Counts:
        if next(seen) == 1:
            threading.Event().wait()
        return Counts(values=1)

    return run


def test_a_crash_and_an_error_are_findings_and_the_rest_is_run() -> None:
    said: list[str] = []
    job = Job("planted", CRASHING)
    result = Runner(job, SEED, 0, said.append).run(examples=6, seconds=60)
    crash, error = result.findings
    assert "SIGSEGV" in crash
    assert "--seed 7 --only planted --first 1 --examples 1" in crash
    assert "planted" in error
    assert "--first 3 --examples 1" in error
    assert (result.next_example, result.values) == (6, 40)
    assert any("2 findings, done" in each for each in said)


def test_a_part_that_cannot_begin_is_one_finding() -> None:
    result = Runner(Job("planted", f"{__name__}:broken"), SEED, 0, lambda _text: None).run(examples=5, seconds=60)
    assert len(result.findings) == 1
    assert "RuntimeError: planted" in result.findings[0]


def test_an_example_that_does_not_end_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.runner.HANGS_AFTER_S", 1.0)
    result = Runner(Job("planted", f"{__name__}:endless"), SEED, 0, lambda _text: None).run(examples=2, seconds=60)
    assert len(result.findings) == 1
    assert "does not end" in result.findings[0]


def test_a_run_resumes_after_its_last_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--only", "scan", "--examples", "2", "--state", str(tmp_path / "state.json")]
    assert main(["--seed", "9", *arguments]) == 0
    assert main(["--resume", *arguments]) == 0
    assert json.loads((tmp_path / "state.json").read_text()) == {"seed": 9, "next": {"scan": 4}}
    assert capsys.readouterr().out.splitlines()[-1].startswith("seed 9: ")
    with pytest.raises(SystemExit, match="is of seed 9"):
        main(["--resume", "--seed", "8", *arguments])
