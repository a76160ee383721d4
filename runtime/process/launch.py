"""Registers this process with the guard, then becomes the command: `launch.py FD COMMAND [ARG ...]`.

The child registers itself, before it is anything else, so there is no moment at which a crash of the parent
could leave it unknown to the guard. Run by path, without site-packages: it costs 15 ms.
"""

import os
import sys


def main() -> None:
    """Register, then become the command."""
    guard = int(sys.argv[1])
    os.write(guard, b"+%d\n" % os.getpid())
    os.close(guard)  # the guard waits for its last writer to go, which must not be the command
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606


if __name__ == "__main__":
    main()
