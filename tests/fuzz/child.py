"""The process that runs the examples of one part. An array's end that is overrun ends it, and nothing else."""

import argparse
import importlib
import json
import mmap
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.fuzz.parts import PARTS, Counts, Part

_MESSAGE_CHARACTERS = 6_000
_STATE = struct.Struct("<qqqd")


class Progress(NamedTuple):
    """Progress of a process, readable also after its death."""

    example: int
    """The number of the one that runs."""
    values: int
    batches: int
    seconds: float
    """Since its first example; below 0 before that."""

    @classmethod
    def read(cls, path: Path) -> "Progress":
        """Read the progress of a process."""
        return cls(*_STATE.unpack(path.read_bytes()))

    def write(self, into: mmap.mmap) -> None:
        """Write to memory that outlives the process."""
        _STATE.pack_into(into, 0, *self)

    @classmethod
    def create(cls, path: Path, first: int) -> None:
        """Write a file for a process that begins with an example."""
        path.write_bytes(_STATE.pack(*cls(first, 0, 0, -1.0)))


def part_of(name: str) -> Part:
    """A part by its name, or by module:function for a test's own."""
    module, _, function = name.partition(":")
    make: Callable[[], Part] = getattr(importlib.import_module(module), function) if function else PARTS[name]
    return make()


def main() -> None:
    """Run examples until they are done or the time is; each finding is a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, required=True)
    parser.add_argument("--end", type=int, help="The first example that is not run.")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--progress", type=Path, required=True)
    options = parser.parse_args()
    run = part_of(options.part)
    values = batches = 0
    example, begun = options.first, time.monotonic()
    with options.progress.open("r+b") as file, mmap.mmap(file.fileno(), _STATE.size) as shared:
        while example != options.end and time.monotonic() - begun < options.seconds:
            Progress(example, values, batches, time.monotonic() - begun).write(shared)
            counts = Counts()
            try:
                counts = run(Random(f"{options.seed} {options.part} {example}"))
            except Exception:  # any error is a finding
                print(json.dumps([example, traceback.format_exc()[-_MESSAGE_CHARACTERS:]]), flush=True)
            values, batches, example = values + counts.values, batches + counts.batches, example + 1
        Progress(example, values, batches, time.monotonic() - begun).write(shared)


if __name__ == "__main__":
    main()
