"""Chart of propensities: the examination of each position with its interval, for each segment."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from learning.estimators.curve import PropensityCurve
from learning.scope import LearningScope
from tally.plot import save
from tally.plot_axes import MAX_SERIES, label

_SIZE = (9.0, 4.5)
"""Width and height in inches."""
_SPREAD = 0.6
"""Part of the distance between two positions over which the segments are spread."""


def draw_propensities(scope: LearningScope, curves: Sequence[PropensityCurve], path: Path) -> str:
    """Write a chart as PNG or SVG by the suffix of `path`; return a note about it.

    The segments with the most impressions are drawn. Raises TallyError when the file cannot be written.
    """
    drawn = sorted(curves, key=lambda curve: -sum(point.impressions for point in curve.points))[:MAX_SERIES]
    drawn.sort(key=lambda curve: curve.segment)
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(drawn):
        known = [(point, point.value) for point in curve.points if point.value is not None]
        shift = _SPREAD * ((number + 0.5) / len(drawn) - 0.5)
        axes.errorbar(
            [point.position + shift for point, _ in known],
            [value for _, value in known],
            yerr=[
                [value - (point.low or value) for point, value in known],
                [(point.high or value) - value for point, value in known],
            ],
            fmt="o",
            markersize=4,
            capsize=3,
            label=label(curve.segment),
        )
    if scope.segment_path:
        axes.legend(title=label(".".join(scope.segment_path)), frameon=False, fontsize=8)
    axes.set_title("Examination by position, with 95 % intervals\n", loc="left")
    days = f"{scope.since:%Y-%m-%d %H:%M} to {scope.until:%Y-%m-%d %H:%M} UTC"
    text = f"{label(scope.retriever)}, {label(scope.namespace)}, {days}, {curves[0].method}"
    axes.text(0, 1.02, text, transform=axes.transAxes, color="#666666", fontsize=8)
    axes.set_xlabel("position")
    axes.set_ylabel(f"probability relative to position {drawn[0].reference}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    omitted = len(curves) - len(drawn)
    return f"chart written to {path}" + (f"; {omitted:,} segments are not drawn: at most {MAX_SERIES}" * bool(omitted))
