"""Apache Flink: creates the table, and becomes the Java process of `FlinkJob.java`, the job.

It runs in the project's environment; options are read as JSON, progress is written as JSON lines.
"""

import json
import os
import sys

import clickhouse_connect
from peer_table import CREATE

CHECKPOINT_MS = 10_000
ROWS_PER_INSERT = 50_000
STEPS = 20
"""Smallest number of inserts, so that a short run has a beginning and an end."""


def main() -> None:
    options = json.load(sys.stdin)
    client = clickhouse_connect.get_client(dsn=options["clickhouse"])
    client.command(CREATE.format(table=options["table"]))
    client.close()
    names = ("kafka", "topic", "group", "clickhouse", "table")
    given = {f"PEER_{name.upper()}": options[name] for name in names}
    given |= {"PEER_CHECKPOINT_MS": str(CHECKPOINT_MS), "PEER_CHECKPOINTS": f"file://{options['scratch']}"}
    given["PEER_ROWS_PER_INSERT"] = str(min(ROWS_PER_INSERT, options["events"] // STEPS))
    os.execve(options["run"][0], options["run"], os.environ | given)  # noqa: S606  (a command of our own)


if __name__ == "__main__":
    main()
