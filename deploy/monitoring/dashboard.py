"""Generator of the Grafana dashboard from the list of metrics: `make docs` writes dashboard.json.

A counter is shown as its rate, a histogram as its median and 99th percentile, and a timestamp as its age.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from prometheus_client import Counter, Histogram

from runtime import metrics
from runtime.metrics import Metric

RATE_OVER = "$__rate_interval"
"""Grafana variable for a range of at least four scrapes."""

_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 7
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_ROWS = {
    "Event pipeline": (
        "tally_lag_",
        "tally_partition_",
        "tally_worker_events",
        "tally_worker_freshness",
        "tally_tracking_",
        "tally_http_events_",
    ),
    "Workers": ("tally_worker_", "tally_retries"),
    "API": ("tally_http_", "tally_collector_"),
    "Learned weights": ("tally_weight", "tally_signals_", "tally_learning_", "tally_session"),
    "Versions": ("tally_build",),
}
"""Rows by title, with the prefixes of their metrics. A metric is in the first row with a matching prefix."""
_SEEN_BY_EACH = {
    metrics.LAG,
    metrics.LAG_SECONDS,
    metrics.STUCK_SECONDS,
    metrics.STUCK_OFFSET,
    metrics.TRACKING_FAULT_EXCESS,
    metrics.LEARNING_COUNTS_AGE,
    metrics.WEIGHT_DAYS_AT_CLIP,
}
"""Metrics that every reader exports with the same value: they are combined by max, not sum."""


def queries_of(metric: Metric) -> dict[str, str]:
    """Return the Prometheus queries of a metric's panel by legend."""
    name, labels = metrics.name_of(metric), ", ".join(metrics.labels_of(metric))
    by, legend = f" by ({labels})" if labels else "", " ".join(f"{{{{{each}}}}}" for each in metrics.labels_of(metric))
    queries = {}
    if isinstance(metric, Counter):
        queries[legend] = f"sum{by} (rate({name}[{RATE_OVER}]))"
    elif isinstance(metric, Histogram):
        grouped = ", ".join(filter(None, ("le", labels)))
        for quantile, title in (0.5, "p50"), (0.99, "p99"):
            rates = f"sum by ({grouped}) (rate({name}_bucket[{RATE_OVER}]))"
            queries[f"{title} {legend}".strip()] = f"histogram_quantile({quantile}, {rates})"
    elif name.endswith("_timestamp_seconds"):
        queries[legend] = f"time() - max{by} ({name})"
    else:
        queries[legend] = f"{'max' if metric in _SEEN_BY_EACH else 'sum'}{by} ({name})"
    return queries


def _unit(metric: Metric, name: str) -> str:
    if "_seconds" in name:
        return "percentunit" if isinstance(metric, Counter) else "s"
    return "cps" if isinstance(metric, Counter) else "short"


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's import format."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "tally",
        "title": "Tally",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source]},
        "panels": list(_placed()),
    }


def _placed() -> Iterator[dict[str, Any]]:
    rows: dict[str, list[Metric]] = {title: [] for title in _ROWS}
    for metric in metrics.every_metric():
        title = next(title for title, begins in _ROWS.items() if metrics.name_of(metric).startswith(begins))
        rows[title].append(metric)
    top = number = 0
    for title, panels in rows.items():
        number += 1
        place = {"h": 1, "w": _COLUMNS * _WIDTH, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top += 1
        for at, metric in enumerate(panels):
            number += 1
            row, column = divmod(at, _COLUMNS)
            place = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + row * _HEIGHT}
            yield {"id": number, "gridPos": place, **_panel(metric)}
        top += -(-len(panels) // _COLUMNS) * _HEIGHT


def _panel(metric: Metric) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + at), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
        for at, (legend, query) in enumerate(queries_of(metric).items())
    ]
    name = metrics.name_of(metric)
    return {
        "type": "timeseries",
        "title": name,
        "description": metrics.help_of(metric),
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": _unit(metric, name), "min": 0}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=1)
    sys.stdout.write("\n")
