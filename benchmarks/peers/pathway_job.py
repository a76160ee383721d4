"""Pathway: Kafka input, deduplication by key, rows to ClickHouse in batches.

Its own ClickHouse connector speaks the native protocol, which the embedded engine lacks, so rows go out by its Python
connector. It runs in a separate environment; options are read as JSON, progress is written as JSON lines.
"""

import json
import sys
import threading
import time
from typing import Any

import clickhouse_connect
import pathway as pw
from peer_table import COLUMNS, CREATE

MAX_BACKLOG = 50_000
STEPS = 5
"""Smallest number of minibatches, so that a short run has a beginning and an end."""


class Event(pw.Schema):
    """Fields of an event."""

    interaction_id: str
    feature_id: str
    interaction_type: list[str]
    position: int
    metadata: pw.Json
    user_id: str | None
    session_id: str | None
    execution_id: str | None
    retriever_id: str | None
    query_snapshot: pw.Json
    document_score: float | None
    result_set_size: int | None
    feature_uri: str | None


class ClickHouseWriter(pw.io.python.ConnectorObserver):
    """Writer that inserts the rows of each minibatch."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._client = clickhouse_connect.get_client(dsn=options["clickhouse"])
        self._table = options["table"]
        self._rows: list[list[Any]] = []
        self.done = 0

    def drop(self, _new: str, _first: str) -> bool:
        """Count a repeat, and keep the first event of its key."""
        self.done += 1
        return False

    def on_change(self, row: dict[str, Any], is_addition: bool, **_others: Any) -> None:
        """Keep a row until its minibatch ends."""
        if is_addition:
            self._rows.append([json.dumps(v.value) if isinstance(v := row[name], pw.Json) else v for name in COLUMNS])

    def on_time_end(self, _time: int) -> None:
        """Insert the rows of the minibatch."""
        if self._rows:
            self._client.insert(self._table, self._rows, column_names=COLUMNS)
            self.done += len(self._rows)
            self._rows = []


def main() -> None:
    options = json.load(sys.stdin)
    client = clickhouse_connect.get_client(dsn=options["clickhouse"])
    client.command(CREATE.format(table=options["table"]))
    events = pw.io.kafka.read(
        {
            "bootstrap.servers": options["kafka"],
            "group.id": options["group"],
            "auto.offset.reset": "earliest",
        },
        topic=options["topic"],
        format="json",
        schema=Event,
        autocommit_duration_ms=1_000,
        max_backlog_size=min(MAX_BACKLOG, options["events"] // STEPS),
    )
    writer = ClickHouseWriter(options)
    first = events.deduplicate(
        value=pw.this.interaction_id,
        instance=pw.make_tuple(pw.this.execution_id, pw.this.feature_id, pw.this.interaction_type),
        acceptor=writer.drop,
    )
    pw.io.python.write(first, writer)

    def report() -> None:
        while True:
            print(json.dumps({"done": writer.done}), flush=True)
            time.sleep(0.1)

    threading.Thread(target=report, daemon=True).start()
    pw.run(monitoring_level=pw.MonitoringLevel.NONE, default_logging=False)


if __name__ == "__main__":
    main()
