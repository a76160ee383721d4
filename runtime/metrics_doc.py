"""Markdown table of the metrics: `python -m runtime.metrics_doc > docs/metrics.md`."""

import sys

from runtime import metrics

_HEAD = """# Metrics

Generated from `runtime/metrics.py` by `make docs`. An API process serves `/metrics` on its own port. A worker, and each
of several API processes that share a port, serves it on `TALLY_METRICS_PORT`; the second worker of
`tally consume --workers 2` uses the next port. Names and labels are stable. The client library adds `process_*` and
`python_*`.

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
