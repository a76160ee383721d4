"""Standard output and standard error of commands: whatever is printed there, and whoever reads it or stops reading."""

import io
import os
import sys
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from runtime.errors import TallyError
from runtime.text import printable

BROKEN_PIPE = 141
"""Exit code of a program that SIGPIPE ends, which is how other commands in a pipeline end (128 + 13)."""


class OutputFailed(TallyError):
    """Standard output cannot be written to: it is closed, its disk is full, or its reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror or error}")
        if isinstance(error, BrokenPipeError):
            self.exit_code = BROKEN_PIPE


class _Stream(io.TextIOBase):
    """A standard stream, looked up at each write: tests and programs replace it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _stream(self) -> TextIO:
        found: TextIO | None = getattr(sys, self._name)
        # A live display puts a stand-in there, which prints to a console: to this one it would do so without end.
        found = getattr(found, "rich_proxied_file", found)
        return io.StringIO() if found is None else found

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's encoding."""
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        """Tell whether a terminal shows it."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._stream.fileno()


class _Answers(_Stream):
    """Standard output. Raises OutputFailed."""

    def write(self, text: str) -> int:
        """Write text; characters that the encoding lacks are escaped."""
        if sys.stdout is None:
            raise OutputFailed(OSError("it is closed"))
        stream, encoding = self._stream, self.encoding
        try:
            return stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            _give_up(stream)
            raise OutputFailed(error) from None

    def flush(self) -> None:
        """Hand everything to the reader."""
        try:
            self._stream.flush()
        except OSError as error:
            _give_up(self._stream)
            raise OutputFailed(error) from None


class _Remarks(_Stream):
    """Standard error. Nobody may be reading it, which is no reason to stop."""

    def write(self, text: str) -> int:
        """Write text, if that is possible."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Hand everything to the reader, if there is one."""
        try:
            self._stream.flush()
        except OSError:
            _give_up(self._stream)


def _give_up(stream: TextIO) -> None:
    """Send what is still buffered nowhere: else the interpreter reports it once more when it ends."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _Escaped:
    """A renderable whose text cannot act on the terminal."""

    def __init__(self, content: ConsoleRenderable) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with control characters escaped, but for those of the console itself."""
        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\n"), segment.style)


class _EscapeAll(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Escape everything that is printed."""
        return [_Escaped(each) for each in renderables]


def _console(stream: _Stream) -> Console:
    console = Console(file=cast(TextIO, stream), emoji=False)
    console.push_render_hook(_EscapeAll())
    return console


answers = _Answers("stdout")
out, err = _console(answers), _console(_Remarks("stderr"))


def cell(value: object) -> Text:
    """A value in a table: never markup, and its control characters escaped before the column's width is chosen."""
    return Text(printable(str(value)))


def table(*columns: str, title: str | None = None, caption: str | None = None) -> Table:
    """A table that folds long values instead of cutting them off."""
    made = Table(title=title, caption=caption)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def say(line: str, style: str | None = None) -> None:
    """Print a line for the person who watches; never part of an answer."""
    err.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
