"""Repeated reads of records that were decided about already: when the table refuses one, its whole group is needed."""

from collections.abc import Sequence

from aiokafka import TopicPartition

from consumers.batch import Batch, Range
from consumers.record_limits import event_limits
from consumers.record_ranges import read_range
from consumers.records import Records
from runtime import kafka
from runtime.settings import Settings


async def read_again(settings: Settings, ranges: Sequence[Range]) -> Batch:
    """Read the batch of these ranges again. Raises Unavailable, and Fatal when its records are gone."""
    places = [TopicPartition(settings.topic, each.partition) for each in ranges]
    limits, patience_ms = event_limits(settings), settings.query_timeout_ms
    async with kafka.record_reader(settings) as client:
        client.assign(places)
        found = [
            records
            for place, each in zip(places, ranges, strict=True)
            async for records in read_range(
                client, place, each.first_offset, each.next_offset, limits, patience_ms=patience_ms
            )
        ]
    return Batch(Records.joined(found))
