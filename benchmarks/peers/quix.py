"""Quix Streams with a batching sink into ClickHouse and deduplication in its state, as its users would write it.

It runs in a separate environment; options are read as JSON, progress is written as JSON lines.
"""

import json
import multiprocessing
import signal
import sys
import tempfile
import threading
import time
from typing import Any

import clickhouse_connect
from peer_table import COLUMNS, CREATE
from quixstreams import Application
from quixstreams.sinks.base import BatchingSink, SinkBatch


class ClickHouseSink(BatchingSink):
    """Sink that writes each batch as one insert."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._client = clickhouse_connect.get_client(dsn=options["clickhouse"])
        self._table = options["table"]

    def write(self, batch: SinkBatch) -> None:
        rows = [
            [json.dumps(v) if isinstance(v := item.value.get(name), dict) else v for name in COLUMNS] for item in batch
        ]
        self._client.insert(self._table, rows, column_names=COLUMNS)


def work(options: dict[str, Any], counter: Any) -> None:
    """Run one process of the application."""
    with tempfile.TemporaryDirectory() as state:
        app = Application(
            broker_address=options["kafka"],
            consumer_group=options["group"],
            auto_offset_reset="earliest",
            state_dir=state,
            use_changelog_topics=False,
            commit_every=10_000,
            commit_interval=1.0,
            loglevel="ERROR",
        )
        frame = app.dataframe(app.topic(options["topic"], value_deserializer="json"))

        def is_new(value: dict[str, Any], store: Any) -> bool:
            with counter.get_lock():
                counter.value += 1
            key = f"{value['execution_id']}|{value['feature_id']}|{','.join(value['interaction_type'])}"
            if store.get(key) is not None:
                return False
            store.set(key, value["interaction_id"])
            return True

        frame = frame.filter(is_new, stateful=True)
        frame.sink(ClickHouseSink(options))
        app.run()


def main() -> None:
    options = json.load(sys.stdin)
    client = clickhouse_connect.get_client(dsn=options["clickhouse"])
    client.command(CREATE.format(table=options["table"]))
    counter = multiprocessing.Value("q", 0)
    workers = [
        multiprocessing.Process(target=work, args=(options, counter), daemon=True)
        for _ in range(options.get("processes", 1))
    ]
    for worker in workers:
        worker.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # ends the workers, too
    stop = threading.Event()
    while not stop.wait(0.1) and counter.value < options["events"]:
        print(json.dumps({"done": counter.value, "pids": [worker.pid for worker in workers]}), flush=True)
    print(json.dumps({"done": counter.value, "pids": [worker.pid for worker in workers]}), flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main()
