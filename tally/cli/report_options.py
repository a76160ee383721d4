"""Options of `tally report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ReportFormat = Literal["table", "csv", "json", "parquet"]
MinExecutions = Annotated[
    int | None, typer.Option(help="Minimum executions of a listed query, of `queries`. Default: 10.")
]
Window = Annotated[
    int | None, typer.Option(help="Maximum seconds from a click to a purchase, of `funnel`. Default: 86400.")
]
Of = Annotated[str | None, typer.Option(help="Field with the groups of `compare`. Default: retriever_id.")]
Effect = Annotated[float | None, typer.Option(help="Relative difference for users_needed of `compare`. Default: 0.05.")]
ShareB = Annotated[float | None, typer.Option(help="Expected share of users in B, of `compare`. Default: 0.5.")]
BotExecutions = Annotated[
    int | None, typer.Option(help="Maximum executions of a person in an hour, of `health`. Default: 100.")
]
ColumnNames = Annotated[
    str | None, typer.Option(help="Columns, separated by commas, besides those that name a row. Default: all.")
]
SortBy = Annotated[
    str | None,
    typer.Option(
        help="Column, or COLUMN:desc for the largest first. Default: by time, else most executions or results first."
    ),
]
Values = Annotated[list[str] | None, typer.Argument(help="Groups A and B of `compare`; session id of `journey`.")]
By = Annotated[
    str | None,
    typer.Option(
        help="hour, day (the default), week, all; of `overview` and `positions` also a field: metadata.device."
    ),
]
Limit = Annotated[int | None, typer.Option(help="Maximum rows. Default of a table: 50.", min=1)]
Format = Annotated[
    ReportFormat | None, typer.Option("--format", help="Default: that of the file's suffix, else table.")
]
Plot = Annotated[
    Path | None, typer.Option(help="Also draw a chart to this .png or .svg file; --force replaces an existing one.")
]
PlotColumn = Annotated[
    str | None,
    typer.Option(help="Column with an interval to draw. Default: that of --sort, the only one of --columns, or ctr."),
]
MinSupport = Annotated[int, typer.Option(help="Minimum observations of a drawn point.", min=1)]
