"""Compile ahead what is otherwise compiled at the first start: `python -m tally.ahead`, once after an installation.

The result lies beside the sources (numba's cache), for every process that may read it.
"""

from consumers import ahead
from kernels.compiled import remove_outdated
from producers.collector import events


def main() -> None:
    """For workers and for the collector."""
    remove_outdated()
    ahead.compile_ahead()
    events.compile_ahead()


if __name__ == "__main__":
    main()
