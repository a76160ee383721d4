"""Lookup of one event by id, for a command."""

import time

from readers.lookup import Lookups
from readers.overview import read_lag
from readers.progress import ConsumerProgress
from runtime.clickhouse import ClickHouse
from runtime.log_batches import find_first_waiting
from runtime.settings import Settings
from schemas.outcome import Outcome
from tally.answering import check_stores


async def look_up(
    settings: Settings, database: ClickHouse, namespace: str, interaction_id: str
) -> tuple[Outcome | None, bool]:
    """Return the outcome of an event if it has one, and whether one may still come.

    Raises Unavailable when ClickHouse, or Kafka if `TALLY_KAFKA` is set, does not answer.
    """
    lookups = Lookups(database, 1)
    outcome = await lookups.get(namespace, interaction_id)
    if outcome is not None or not settings.kafka:
        return outcome, False
    await check_stores(settings, "kafka")
    if await _may_be_in_flight(settings, interaction_id):
        return None, True
    return await lookups.get(namespace, interaction_id), False


async def _may_be_in_flight(settings: Settings, interaction_id: str) -> bool:
    """Tell whether a waiting record may have this id. Raises Unavailable when Kafka does not answer.

    After False, a lookup finds the outcome if the event was ever accepted.
    """
    lagging = {each.partition: (each.committed, each.end_offset) for each in await read_lag(settings) if each.lag > 0}
    if not lagging:
        return False
    waiting = await find_first_waiting(settings, lagging)
    if len(waiting) < len(lagging):  # a partition cannot be read: any id may be among its records
        oldest_ms = 0
    else:
        oldest_ms = min((each.last_append_ms for each in waiting.values() if each), default=int(time.time() * 1000))
    progress = ConsumerProgress(settings)
    progress.settled_ms = oldest_ms
    return progress.may_be_in_flight(interaction_id)
