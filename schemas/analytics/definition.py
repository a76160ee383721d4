"""Definition of a report: one object from which its SQL view, command, API call, columns and chart are made."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from schemas.analytics.base import EVERYTHING, QUERY_TEXT_PATH, EventCondition

Unit = Literal["text", "time", "count", "share", "number", "ms", "position", "p", "texts"]
ChartKind = Literal["trend", "intervals", "bars", "differences"]
ParameterValue = str | int | float


class ReportColumn(NamedTuple):
    """Column of a report.

    `support`: column with the number of observations of a rate. `has_interval`: the columns `NAME_low` and `NAME_high`
    have the ends of its 95 % interval. Columns of a low `rank` are the last to be dropped in a narrow terminal.
    """

    name: str
    unit: Unit
    meaning: str
    support: str = ""
    has_interval: bool = False
    rank: int = 1


class ReportParameter(NamedTuple):
    """Parameter of a report besides namespace, time range, condition and limit. Its default gives its type."""

    name: str
    kind: Literal["String", "UInt32", "Float64"]
    default: ParameterValue | None
    meaning: str
    choices: tuple[str, ...] = ()
    at_least: float = 0
    at_most: float = 2**31
    sets: str = ""
    """Column that it determines, and that a narrow table keeps if it is given; '' for none."""


class Chart(NamedTuple):
    """Chart of a report: `y` by `x`. A point needs at least a minimum of observations to be drawn."""

    kind: ChartKind
    x: str
    y: str
    title: str
    series: str = ""
    """Column that names the lines of a trend; '' for a single line."""


class ReportScope(NamedTuple):
    """Events and groups that a report is made of."""

    condition: EventCondition = EVERYTHING
    group: str = ""
    """SQL expression over an event to group by instead of the report's own grouping; '' for that."""
    path: tuple[str, ...] = QUERY_TEXT_PATH
    """Path of the query's text in `query_snapshot`."""


class Report(NamedTuple):
    """Report by name."""

    name: str
    question: str
    columns: tuple[ReportColumn, ...]
    sql: Callable[[ReportScope], str]
    """SELECT with placeholders {namespace}, {since}, {until} and those of `parameters`."""
    order: str
    """Default order of the rows."""
    keys: tuple[str, ...]
    """Columns that name a row. They cannot be left out."""
    chart: Chart | None = None
    parameters: tuple[ReportParameter, ...] = ()
    groups_by: str = ""
    """Parameter whose value may be a field of an event besides its choices; '' if there is none."""
    field_column: ReportColumn | None = None
    """Column with the values of that field, which is there with a field alone; None: the field replaces the period."""
    notes: Callable[[Sequence[Mapping[str, Any]]], list[str]] | None = None
    """Remarks about the rows that a reader must not miss; None: the report has none."""
    total: str = ""
    """Count that is 0 in all rows if there were no events; '' if there are no rows then."""
    groups: Mapping[str, str] = {}
    """Parameters that name a group, with the columns that count its users. A group without users is an error."""
    footnote: str = ""
    """Remark below each table about the meaning of columns."""
    takes_condition: bool = True
    """Whether a filter of events applies: outcomes lack most fields."""

    @property
    def view(self) -> str:
        """Name of the SQL view."""
        return f"report_{self.name}"

    def all_columns(self) -> list[str]:
        """Return the names of all columns, ends of intervals included, in order."""
        return [name for column in self.columns for name in with_ends(column)]

    def defaults(self) -> Mapping[str, ParameterValue | None]:
        """Return the parameters with their defaults; None: required."""
        return {each.name: each.default for each in self.parameters}


def with_ends(column: ReportColumn) -> list[str]:
    """Return the name of a column, followed by those of its interval's ends."""
    return [column.name, f"{column.name}_low", f"{column.name}_high"] if column.has_interval else [column.name]
