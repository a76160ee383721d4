"""Chart of learned weights: the mean of each feature by day, with its interval."""

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from matplotlib.figure import Figure

from learning.weights.history import WeightHistory, date_of
from tally.plot import save
from tally.plot_axes import MAX_SERIES, MUTED, date_axis, label

_SIZE = (9.0, 4.5)
"""Width and height in inches."""
_BAND = 0.15
"""Opacity of an interval."""


def draw_weights(found: WeightHistory, namespace: str, path: Path) -> int:
    """Write a chart as PNG or SVG by the suffix of `path`; return the number of features that are not drawn.

    Those with the largest means on the last day are drawn. Raises TallyError when the file cannot be written.
    """
    last = sorted(found.days[-1].features, key=lambda feature: -feature.mean)
    drawn = [feature.feature_uri for feature in last[:MAX_SERIES]]
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    for name in drawn:
        points = [(each.day, one) for each in found.days for one in each.features if one.feature_uri == name]
        days = [_midnight(day) for day, _ in points]
        (line,) = axes.plot(days, [one.mean for _, one in points], marker="o", markersize=3, label=label(name))  # type: ignore[arg-type]
        lows, highs = [one.low for _, one in points], [one.high for _, one in points]
        axes.fill_between(days, lows, highs, color=line.get_color(), alpha=_BAND, linewidth=0)  # type: ignore[arg-type]
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("Mean reward of a shown result by feature, with 95 % intervals\n", loc="left")
    request = found.request
    text = f"{label(request.retriever)}, {label(namespace)}, {request.level}, configuration {found.config_version}"
    axes.text(0, 1.02, text, transform=axes.transAxes, color=MUTED, fontsize=8)
    axes.set_ylabel("mean of the posterior")
    date_axis(axes, (_midnight(each.day) for each in found.days), timedelta(days=1))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
    return len(last) - len(drawn)


def _midnight(day: int) -> datetime:
    """Return the beginning of a day that is given as days since 1970-01-01, UTC."""
    return datetime.combine(date_of(day), time(), UTC)
