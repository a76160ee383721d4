"""confluent-kafka's `produce` (librdkafka) with acks=all and idempotence, of records that another process has encoded.

It runs in a separate environment; options are read as JSON, the result is written as JSON.
"""

import itertools
import json
import sys
import time

from confluent_kafka import Producer


def main() -> None:
    """Produce the records in turn."""
    options = json.loads(sys.stdin.readline())
    records = [(key.encode(), value.encode()) for key, value in options["records"]]
    headers = [(name, value.encode()) for name, value in options["headers"]]
    events, failed = options["events"], 0

    def delivered(error: object, _record: object) -> None:
        nonlocal failed
        failed += error is not None

    producer = Producer(
        {
            "bootstrap.servers": options["kafka"],
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "lz4",
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.messages": options["in_flight"],
            "batch.size": options["batch_bytes"],
        }
    )
    begun, cpu = time.perf_counter(), time.process_time()
    for key, value in itertools.islice(itertools.cycle(records), events):
        while True:
            try:
                producer.produce(options["topic"], value, key, headers=headers, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.01)
        producer.poll(0)
    producer.flush()
    seconds, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    if failed:
        sys.exit(f"{failed} records were not delivered")
    print(json.dumps({"events_per_s": events / seconds, "cpu_us": cpu_s / events * 1e6}))


if __name__ == "__main__":
    main()
