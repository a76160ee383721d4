"""Standard output and standard error of commands, on terminals, in files and in pipes."""

import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO, cast

from rich.cells import cell_len
from rich.console import (
    Console,
    ConsoleDimensions,
    ConsoleOptions,
    ConsoleRenderable,
    Group,
    JustifyMethod,
    RenderHook,
    RenderResult,
)
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from runtime.errors import TallyError
from runtime.text import printable
from tally.invoked import as_invoked

_WIDE = 100_000
"""Columns of output that goes to no terminal."""

BROKEN_PIPE = 141
"""Exit code of a program that SIGPIPE ends, which is how other commands in a pipeline end (128 + 13)."""


class OutputFailed(TallyError):
    """Standard output cannot be written to: it is closed, its disk is full, or its reader is gone."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror or error}")
        if isinstance(error, BrokenPipeError):
            self.exit_code = BROKEN_PIPE


class _Stream(io.TextIOBase):
    """Standard stream, looked up at each write: tests and programs replace it."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def _found(self) -> TextIO | None:
        found: TextIO | None = getattr(sys, self._name)
        # A live display replaces the stream by one that prints to this console, which would recurse.
        return getattr(found, "rich_proxied_file", found)

    @property
    def _stream(self) -> TextIO:
        return self._found or io.StringIO()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the stream."""
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the stream's file descriptor."""
        return self._stream.fileno()


class _StandardOutput(_Stream):
    """Standard output. Raises OutputFailed."""

    def write(self, text: str) -> int:
        """Write text; characters that the encoding lacks are escaped."""
        if self._found is None:
            raise OutputFailed(OSError("it is closed"))
        stream, encoding = self._stream, self.encoding
        try:
            return stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            _give_up(stream)
            raise OutputFailed(error) from None

    def write_bytes(self, data: bytes) -> None:
        """Write bytes to the file or pipe, after all text written before. Raises OutputFailed."""
        self.flush()
        try:
            descriptor, left = self.fileno(), memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError as error:
            raise OutputFailed(error) from None

    def flush(self) -> None:
        """Flush. Raises OutputFailed."""
        try:
            self._stream.flush()
        except OSError as error:
            _give_up(self._stream)
            raise OutputFailed(error) from None


class GuardedOutput(_StandardOutput):
    """Standard output for libraries that print by themselves, such as click in its help. Raises OutputFailed too."""

    errors = "backslashreplace"

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__("stdout")
        self._guarded = stream

    @property
    def _found(self) -> TextIO | None:
        return self._guarded


class _StandardError(_Stream):
    """Standard error. A failed write is ignored."""

    def write(self, text: str) -> int:
        """Write text if possible."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        """Flush if possible."""
        try:
            self._stream.flush()
        except OSError:
            _give_up(self._stream)


def _give_up(stream: TextIO) -> None:
    """Send buffered text to the null device: else the interpreter reports the error again when it ends."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


class _EscapedRenderable:
    """Renderable whose control characters are escaped."""

    def __init__(self, content: ConsoleRenderable) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with control characters escaped, except those of the console itself."""
        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\n"), segment.style)


class _EscapeHook(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Escape everything that is printed."""
        return [_EscapedRenderable(each) for each in renderables]


class _Console(Console):
    """Console as wide as its text, unless it is a terminal."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines. Files and pipes get whole values and whole lines."""
        found = super().size
        return found if self.file.isatty() else ConsoleDimensions(_WIDE, found.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self.width, self.height = new_size


def _console(stream: _Stream) -> Console:
    console = _Console(file=cast(TextIO, stream), emoji=False)
    console.push_render_hook(_EscapeHook())
    return console


answers = _StandardOutput("stdout")
out, err = _console(answers), _console(_StandardError("stderr"))


def cell(value: object) -> Text:
    """Make a table cell: no markup, with control characters escaped before the column width is chosen."""
    return Text(printable(str(value)))


class WholeWordTable:
    """Table that breaks no word. If it does not fit the terminal, each value is on a line of its own."""

    def __init__(self, columns: Sequence[str], title: str | None, caption: str | None, *, right: bool) -> None:
        self._columns = [Text(column) for column in columns]
        self._title, self._caption = title, caption
        self._right = right
        self._rows: list[list[Text]] = []
        self._last_is_total = False

    def add_row(self, *values: object) -> None:
        """Add a row; each value becomes a `cell`."""
        self._rows.append([cell(value) for value in values])

    def add_total(self, *values: object) -> None:
        """Add the last row, below a line."""
        self.add_row(*values)
        self._last_is_total = True

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table if it fits."""
        columns = list(zip(self._columns, *self._rows, strict=True))
        needed = [max(_longest_word(each) for each in column) for column in columns]
        wanted = [max(cell_len(each.plain) for each in column) for column in columns]
        room = options.max_width - 3 * len(columns) - 1
        yield self._table(_shared(needed, wanted, room)) if sum(needed) <= room else self._lines()

    def _table(self, widths: Sequence[int]) -> Table:
        made = Table(title=self._title, caption=self._caption)
        for number, (column, width) in enumerate(zip(self._columns, widths, strict=True)):
            justify: JustifyMethod = "right" if self._right and number else "left"
            made.add_column(column, width=width, overflow="fold", justify=justify)
        for number, row in enumerate(self._rows, 1):
            if self._last_is_total and number == len(self._rows):
                made.add_section()
            made.add_row(*row)
        return made

    def _lines(self) -> Group:
        width = max(cell_len(column.plain) for column in self._columns)
        lines = [Text(self._title, style="italic")] if self._title else []
        for row in self._rows:
            lines.append(Text())
            for column, value in zip(self._columns, row, strict=True):
                lines.append(Text.assemble((f"{column.plain:<{width}} ", "bold"), value, overflow="fold"))
        return Group(*lines, *([Text(self._caption)] if self._caption else []))


def _longest_word(text: Text) -> int:
    return max(map(cell_len, text.plain.split()), default=1)


def _shared(needed: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """Choose widths between the needed and the wanted ones; spare columns go to the smallest requests first."""
    widths, spare = list(needed), room - sum(needed)
    by_want = sorted(range(len(needed)), key=lambda number: wanted[number] - needed[number])
    for place, number in enumerate(by_want):
        more = min(wanted[number] - needed[number], spare // (len(by_want) - place))
        widths[number] += more
        spare -= more
    return widths


def table(*columns: str, title: str | None = None, caption: str | None = None, right: bool = False) -> WholeWordTable:
    """Make a table; `right`: all columns but the first are numbers."""
    return WholeWordTable(columns, title, caption, right=right)


def progress_bar() -> Progress:
    """Make a progress bar with counts, shown on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, disable=not err.is_terminal)


def say(line: str, style: str | None = None) -> None:
    """Print a line to standard error. Commands in backticks are shown as they can be typed."""
    err.print(as_invoked(line), style=style, highlight=False, markup=False, soft_wrap=True)
