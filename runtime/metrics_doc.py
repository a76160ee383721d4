"""Markdown table of the metrics: `python -m runtime.metrics_doc > docs/metrics.md`."""

import sys

from runtime import metrics

_HEAD = """# Metrics

Generated from `runtime/metrics.py` by `make docs`. The API serves `/metrics` on its own port: of the processes of one
`tally serve --workers N` any answers their sum, at most a second old, in which no count goes down when a process is
replaced. With `TALLY_METRICS_PORT` each of them also has a port of its own with its own metrics: collect these, or the
sum. A worker serves `/metrics` on `TALLY_METRICS_PORT`; the second worker of `tally consume --workers 2` uses the next
port. Names and labels are stable. The client library adds `process_*` and `python_*`.

| name | kind | labels | meaning |
|---|---|---|---|
"""


def as_markdown() -> str:
    """Return the whole page."""
    rows = [
        f"| `{metrics.name_of(each)}` | {type(each).__name__.lower()} "
        f"| {', '.join(metrics.labels_of(each))} | {metrics.help_of(each)} |"
        for each in metrics.every_metric()
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
