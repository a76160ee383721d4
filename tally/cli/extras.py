"""Optional dependencies of commands: each command imports what it needs when it is called."""

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Literal, ParamSpec

from runtime.errors import TallyError

Extra = Literal["worker", "api", "embedded", "plot"]
Parameters = ParamSpec("Parameters")


class MissingExtra(TallyError):
    """A package of an optional dependency group is not installed. The message names the command that installs it."""

    exit_code = 2


def needs(extra: Extra) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """Decorate a command that needs an extra: raise MissingExtra where an import finds a package missing."""

    def decorate(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
        @wraps(command)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
            try:
                command(*args, **kwargs)
            except ModuleNotFoundError as error:
                package = (error.name or "").partition(".")[0]
                if not package or find_spec(package):  # a module is missing in a package that is installed: a defect
                    raise
                raise MissingExtra(
                    f'this command needs {package}, which is not installed: pip install "tally-server[{extra}]"'
                ) from error

        return run

    return decorate
