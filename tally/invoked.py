"""How this program was called: hints name its commands so that they can be typed as they stand."""

import re
import shlex
import shutil
import sys
from pathlib import Path

NAME = "tally"
_COMMAND = re.compile(rf"(?<=`){NAME}(?=[ `])")


def invoked() -> str:
    """`tally` where a shell finds this very program under that name, else the path that it was called by."""
    called = Path(sys.argv[0])
    if called.name != NAME or not called.exists():  # a module, or a test
        return NAME
    found = shutil.which(NAME)
    return NAME if found and Path(found).samefile(called) else shlex.quote(sys.argv[0])


def as_invoked(text: str) -> str:
    """A text for people in which commands of ours, in backticks, can be typed as they stand."""
    return _COMMAND.sub(lambda _: invoked(), text)
