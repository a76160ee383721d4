"""ClickHouse's Kafka engine and a materialized view, in chdb 3.7.2 (later embedded engines refuse ENGINE=Kafka).

It runs in a separate environment; options are read as JSON, progress is written as JSON lines.
"""

import json
import sys
import tempfile
import time

import chdb.session

COLUMNS = """
    namespace LowCardinality(String),
    interaction_id String,
    feature_id String,
    interaction_type Array(LowCardinality(String)),
    position UInt32,
    metadata String,
    user_id Nullable(String),
    session_id Nullable(String),
    execution_id Nullable(String),
    retriever_id LowCardinality(Nullable(String)),
    query_snapshot String,
    document_score Nullable(Float64),
    result_set_size Nullable(UInt32),
    feature_uri LowCardinality(Nullable(String)),
    timestamp DateTime64(3, 'UTC'),
    _p UInt32,
    _o UInt64
"""
MESSAGE = """
    interaction_id String, feature_id String, interaction_type Array(String), position UInt32, metadata String,
    user_id Nullable(String), session_id Nullable(String), execution_id Nullable(String),
    retriever_id Nullable(String), query_snapshot String, document_score Nullable(Float64),
    result_set_size Nullable(UInt32), feature_uri Nullable(String)
"""


def main() -> None:
    options = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        session = chdb.session.Session(folder)
        session.query("CREATE DATABASE IF NOT EXISTS bench ENGINE = Atomic")
        session.query(
            f"CREATE TABLE bench.stored ({COLUMNS}, INDEX t timestamp TYPE minmax GRANULARITY 1) "
            "ENGINE = MergeTree ORDER BY (namespace, interaction_id)"
        )
        session.query(
            f"CREATE TABLE bench.queue ({MESSAGE}) ENGINE = Kafka SETTINGS kafka_broker_list = '{options['kafka']}', "
            f"kafka_topic_list = '{options['topic']}', kafka_group_name = '{options['group']}', "
            "kafka_format = 'JSONEachRow', kafka_num_consumers = 2, kafka_thread_per_consumer = 1, "
            "kafka_max_block_size = 262144, kafka_poll_max_batch_size = 65536, kafka_flush_interval_ms = 1000, "
            "input_format_json_read_objects_as_strings = 1"
        )
        session.query(
            "CREATE MATERIALIZED VIEW bench.view TO bench.stored AS SELECT 'default' AS namespace, interaction_id, "
            "feature_id, interaction_type, position, metadata, user_id, session_id, execution_id, retriever_id, "
            "query_snapshot, document_score, result_set_size, feature_uri, "
            "toDateTime64(_timestamp_ms, 3) AS timestamp, _partition AS _p, _offset AS _o FROM bench.queue"
        )
        done = 0
        while done < options["events"]:
            time.sleep(0.1)
            done = int(str(session.query("SELECT count() FROM bench.stored", "TabSeparated")).strip() or 0)
            print(json.dumps({"done": done}), flush=True)
        session.query("DROP VIEW bench.view")
        session.query("DROP TABLE bench.queue")
        session.close()


if __name__ == "__main__":
    main()
