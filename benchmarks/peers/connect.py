"""ClickHouse's sink in a standalone worker of Kafka Connect: at least once, no deduplication.

Its exactly-once state needs a ClickHouse Keeper, which the embedded engine lacks. It runs in the project's environment;
options are read as JSON, progress is written as JSON lines.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from peer_table import CREATE

RECORDS_PER_INSERT = 50_000
STEPS = 20
"""Smallest number of inserts, so that a short run has a beginning and an end."""


def worker_properties(options: dict[str, Any], folder: Path) -> dict[str, object]:
    """Return the properties of the standalone worker."""
    return {
        "bootstrap.servers": options["kafka"],
        "plugin.path": options["plugins"],
        "offset.storage.file.filename": folder / "offsets",
        "offset.flush.interval.ms": 1_000,  # also the longest wait of a poll, and so of an unfinished batch
        "listeners": "http://127.0.0.1:0",
        "connector.client.config.override.policy": "All",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.storage.StringConverter",
    }


def connector_properties(options: dict[str, Any]) -> dict[str, object]:
    """Return the properties of the sink. Values pass through as text: ClickHouse parses the JSON."""
    server = urlsplit(options["clickhouse"])
    database, table = options["table"].split(".")
    return {
        "name": options["group"],
        "connector.class": "com.clickhouse.kafka.connect.ClickHouseSinkConnector",
        "tasks.max": 2,
        "topics": options["topic"],
        "topic2TableMap": f"{options['topic']}={table}",
        "hostname": server.hostname,
        "port": server.port,
        "username": server.username,
        "password": server.password,
        "database": database,
        "jdbcConnectionProperties": "?compress=0",
        "clickhouseSettings": "input_format_json_read_objects_as_strings=1",
        "customInsertFormat": "true",
        "insertFormat": "JSON",
        "exactlyOnce": "false",
        "ignorePartitionsWhenBatching": "true",
        "bufferCount": min(RECORDS_PER_INSERT, options["events"] // STEPS),
        "bufferFlushTime": 1_000,
        "consumer.override.max.poll.records": 10_000,
        "consumer.override.max.partition.fetch.bytes": 8 << 20,
        "consumer.override.auto.offset.reset": "earliest",
    }


def write(path: Path, properties: dict[str, object]) -> Path:
    """Write a properties file."""
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    return path


def main() -> None:
    options = json.load(sys.stdin)
    client = clickhouse_connect.get_client(dsn=options["clickhouse"])
    client.command(CREATE.format(table=options["table"]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = write(folder / "worker.properties", worker_properties(options, folder))
        connector = write(folder / "connector.properties", connector_properties(options))
        with subprocess.Popen([*options["run"], worker, connector], stdout=sys.stderr) as java:
            try:
                while java.poll() is None:
                    time.sleep(0.25)
                    done = client.query(f"SELECT count() FROM {options['table']}").first_row[0]
                    print(json.dumps({"done": done, "pids": [java.pid]}), flush=True)
            finally:
                java.kill()
    sys.exit(f"Kafka Connect ended with {java.returncode}")


if __name__ == "__main__":
    main()
