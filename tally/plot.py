"""Bar chart of a report."""

from datetime import datetime
from pathlib import Path

from matplotlib.figure import Figure

from readers.reports import Report
from runtime.errors import TallyError
from runtime.text import printable

MAX_HORIZONTAL_LABELS = 10
"""Bars with more labels have slanted ones."""


def draw(report: Report, path: Path) -> None:
    """Write a PNG of the value column by the label column. Raises TallyError when the file cannot be written."""
    label, value = report.columns.index(report.label), report.columns.index(report.value)
    sums: dict[str, float] = {}
    for row in report.rows:
        # Matplotlib reads a pair of dollar signs as a formula.
        name = (
            f"{row[label]:%d %b %H:%M}"
            if isinstance(row[label], datetime)
            else printable(str(row[label])).replace("$", r"\$")
        )
        sums[name] = sums.get(name, 0) + (row[value] or 0)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(sums), list(sums.values()), color="#3b6ea5")
    axes.set_title(report.title)
    axes.set_xlabel(report.label.replace("_", " "))
    axes.set_ylabel(report.value.replace("_", " "))
    axes.tick_params(axis="x", rotation=0 if len(sums) < MAX_HORIZONTAL_LABELS else 60)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise TallyError(f"cannot write {path}: {error.strerror}") from error
