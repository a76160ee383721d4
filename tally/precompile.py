"""Compile the kernels before the first start: `python -m tally.precompile`, once after an installation.

The machine code is stored beside the sources, for every process that may read it.
"""

from consumers import precompile
from kernels.boundary import remove_outdated
from producers.collector import events


def main() -> None:
    """Compile the functions of workers and of the collector."""
    remove_outdated()
    precompile.precompile()
    events.precompile()


if __name__ == "__main__":
    main()
