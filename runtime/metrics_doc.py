"""The metrics as a Markdown table: `python -m runtime.metrics_doc > docs/metrics.md`."""

import sys

from runtime import metrics

_HEAD = """# Metrics

Generated from `runtime/metrics.py` by `make docs`. An API process answers `/metrics` on its own port; a worker, and
each of several API processes that share a port, on `TALLY_METRICS_PORT` (the second one of `tally consume --workers 2`
on the port after it). Names and labels stay; `process_*` and `python_*` of the client library are there as well.

| name | kind | labels | meaning |
|---|---|---|---|
"""


def as_markdown() -> str:
    """The whole page."""
    rows = [
        f"| `{metrics.name_of(each)}` | {type(each).__name__.lower()} "
        f"| {', '.join(metrics.labels_of(each))} | {metrics.help_of(each)} |"
        for each in metrics.every_metric()
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
