"""CPU time and peak memory of processes, read from /proc."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """Usage of a process: CPU seconds since its start (user and system), and peak memory in bytes."""

    cpu_s: float
    peak_bytes: int


def usage(pid: int) -> Usage:
    """Return the usage of a process; zero for one that has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        # The name in parentheses may hold spaces; the fields after it do not.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        peak_kib = next(
            (int(line.split()[1]) for line in (folder / "status").read_text().splitlines() if line.startswith("VmHWM")),
            0,
        )
    except (FileNotFoundError, ProcessLookupError):
        return Usage(0.0, 0)
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, peak_kib * 1024)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; zero for one that has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * _PAGE_BYTES


def reset_peak(pid: int) -> None:
    """Set the peak memory of a process to what it uses now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class Meter:
    """Meter of named groups of processes."""

    def __init__(self, pids: Mapping[str, list[int]]) -> None:
        self._pids = pids
        self._before: dict[int, float] = {}

    def start(self) -> None:
        """Start to count CPU time."""
        self._before = {pid: usage(pid).cpu_s for pids in self._pids.values() for pid in pids}

    def cpu_s(self) -> dict[str, float]:
        """Return CPU seconds since `start`, by group."""
        return {
            name: sum(usage(pid).cpu_s - self._before.get(pid, 0.0) for pid in pids)
            for name, pids in self._pids.items()
        }

    def peak_bytes(self) -> dict[str, int]:
        """Return the largest peak memory in each group."""
        return {name: max((usage(pid).peak_bytes for pid in pids), default=0) for name, pids in self._pids.items()}
