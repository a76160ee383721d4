"""Launcher that registers this process with the guard, then becomes the command: `launch.py FD COMMAND [ARG ...]`.

The child registers itself first, so a crash of the parent never leaves it unknown to the guard. It runs by path,
without site-packages, which takes 15 ms.
"""

import os
import sys


def main() -> None:
    """Register, then become the command."""
    descriptor, *command = sys.argv[1:]
    guard = int(descriptor)
    os.write(guard, b"+%d\n" % os.getpid())
    os.close(guard)  # the guard waits for its last writer, which must not be the command
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
