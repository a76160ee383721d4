"""The one place that touches private parts of aiokafka: records as its decoder makes them, without the copy.

The client makes a ConsumerRecord of 11 fields out of every decoded record, which takes longer than decoding it. What
the pipeline needs of it the decoded record has as well. Where the client's insides look otherwise than in the version
this was written for, nothing happens, and records come as ConsumerRecords: the pipeline does not see the difference.
"""

from typing import Any

from aiokafka import AIOKafkaConsumer


def give_plain_records(consumer: AIOKafkaConsumer) -> None:
    """Let the client hand out what it has fetched so far as it is. What it fetches later comes the public way."""
    client: Any = consumer
    try:
        for each in client._fetcher._records.values():
            records = getattr(each, "_partition_records", None)
            if records is not None and "_consumer_record" not in vars(records):
                records._consumer_record = _as_it_is
    except (AttributeError, TypeError):
        return


def _as_it_is(_place: Any, record: Any) -> Any:
    return record
