"""Answers, tables, progress and messages of commands, on terminals, in files and in pipes."""

from collections.abc import Container, Sequence
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

from runtime.text import printable
from tally.cli.streams import StandardError, StandardOutput, StandardStream
from tally.invoked import as_invoked

_WIDE = 100_000
"""Columns of output that goes to no terminal."""
WHOLE_TEXT = 24
"""Longest text in characters that stays on one line in a table that can leave out columns."""


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


def _console(stream: StandardStream) -> Console:
    console = _Console(file=cast(TextIO, stream), emoji=False)
    console.push_render_hook(_EscapeHook())
    return console


answers = StandardOutput("stdout")
out, err = _console(answers), _console(StandardError("stderr"))


def cell(value: object) -> Text:
    """Make a table cell: no markup, with control characters escaped before the column width is chosen."""
    return Text(printable(str(value)))


class WholeWordTable:
    """Table that breaks no word and no number, and cuts no value.

    If it does not fit the terminal, it leaves out the least important columns and names them in its caption. Without
    an order of importance, each value is on a line of its own.
    """

    def __init__(
        self,
        columns: Sequence[str],
        title: str | None,
        caption: str | Sequence[str] | None,
        *,
        right: Container[int],
        keep: Sequence[str],
        elsewhere: str,
    ) -> None:
        self._columns = [cell(column) for column in columns]
        self._title = title
        self._captions = [caption] if isinstance(caption, str) else list(caption or ())
        self._right = right
        self._keep, self._elsewhere = keep, elsewhere
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
        """Render the title, the columns that fit as a table, and the caption, each up to the terminal's width."""
        if self._title:
            yield Text(printable(self._title), style="bold")
        yield from self._body(options)

    def _body(self, options: ConsoleOptions) -> RenderResult:
        columns = list(zip(self._columns, *self._rows, strict=True))
        needed = [self._needed(number, column) for number, column in enumerate(columns)]
        wanted = [max(cell_len(each.plain) for each in column) for column in columns]
        shown, width = list(range(len(columns))), options.max_width
        least_first = reversed(self._by_importance()) if self._keep else iter(())
        while (room := _room(width, len(shown))) < sum(needed[number] for number in shown):
            if len(shown) == 1 or (least := next(least_first, None)) is None:
                yield self._lines()
                yield from self._notes()
                return
            shown.remove(least)
        yield self._table(shown, _shared([needed[each] for each in shown], [wanted[each] for each in shown], room))
        left_out = ", ".join(each.plain for number, each in enumerate(self._columns) if number not in shown)
        yield from self._notes(
            f"left out: {left_out}. {self._elsewhere} or a wider terminal shows them" * bool(left_out)
        )

    def _notes(self, *more: str) -> RenderResult:
        for line in filter(None, (*self._captions, *more)):
            yield Text(printable(line), style="dim")

    def _needed(self, number: int, column: Sequence[Text]) -> int:
        """Return the smallest width of a column.

        If columns may be left out, a number and its interval stay on one line, and so does a text of up to WHOLE_TEXT
        characters.
        """
        name, *values = column
        whole = (_WIDE if number in self._right else WHOLE_TEXT) if self._keep else 1
        return max(
            _longest_word(name), *(max(_longest_word(each), min(cell_len(each.plain), whole)) for each in values), 1
        )

    def _by_importance(self) -> list[int]:
        names = [column.plain for column in self._columns]
        kept = [names.index(name) for name in self._keep]
        return kept + [number for number in range(len(names)) if number not in kept]

    def _table(self, shown: Sequence[int], widths: Sequence[int]) -> Table:
        made = Table()
        for number, width in zip(shown, widths, strict=True):
            justify: JustifyMethod = "right" if number in self._right else "left"
            made.add_column(self._columns[number], width=width, overflow="fold", justify=justify)
        for number, row in enumerate(self._rows, 1):
            if self._last_is_total and number == len(self._rows):
                made.add_section()
            made.add_row(*(row[each] for each in shown))
        return made

    def _lines(self) -> Group:
        width = max(cell_len(column.plain) for column in self._columns)
        lines = []
        for row in self._rows:
            lines.append(Text())
            for column, value in zip(self._columns, row, strict=True):
                lines.append(Text.assemble((f"{column.plain:<{width}} ", "bold"), value, overflow="fold"))
        return Group(*lines)


def _room(width: int, columns: int) -> int:
    """Return the characters that the borders of a table leave for its values."""
    return width - 3 * columns - 1


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


def table(
    *columns: str,
    title: str | None = None,
    caption: str | Sequence[str] | None = None,
    right: bool | Container[int] = False,
    keep: Sequence[str] = (),
    elsewhere: str = "--json",
) -> WholeWordTable:
    """Make a table.

    `caption`: a line, or several ones. `right`: indexes of the columns of numbers; True for all but the first. `keep`:
    columns in the order of their importance; the others come after them, in their own order. On a narrow terminal the
    least important ones are left out, and the caption says that the option `elsewhere` shows them.
    """
    if isinstance(right, bool):
        right = range(1, len(columns)) if right else ()
    return WholeWordTable(columns, title, caption, right=right, keep=keep, elsewhere=elsewhere)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: 1 letter, 2 letters."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def progress_bar() -> Progress:
    """Make a progress bar with counts, shown on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, disable=not err.is_terminal)


def say(line: str, style: str | None = None) -> None:
    """Print a line to standard error. Commands in backticks are shown as they can be typed."""
    err.print(as_invoked(line), style=style, highlight=False, markup=False, soft_wrap=True)
