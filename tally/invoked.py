"""Name by which this program was called, for hints that can be typed as shown."""

import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "tally"
_COMMAND = re.compile(rf"(?<=`){NAME}(?=[ `])")


def invoked() -> str:
    """Return `tally` if the shell finds this program under that name, else the path of the call."""
    called = Path(sys.argv[0])
    if called.name != NAME or not called.exists():  # a module, or a test
        return NAME
    found = shutil.which(NAME)
    return NAME if found and Path(found).samefile(called) else shlex.quote(sys.argv[0])


def as_invoked(text: str) -> str:
    """Replace `tally` in commands in backticks by the name of the call."""
    return _COMMAND.sub(lambda _: invoked(), text)
