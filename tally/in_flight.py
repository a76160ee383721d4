"""Check whether an event without an outcome is in flight, for a command that cannot watch the log."""

import time

from readers.overview import read_lag
from readers.progress import Progress
from runtime.log_batches import first_waiting
from runtime.settings import Settings


async def may_be_in_flight(settings: Settings, interaction_id: str) -> bool:
    """Tell whether a waiting record may have this id. Raises Unavailable when Kafka does not answer.

    After False, a lookup finds the outcome if the event was ever accepted.
    """
    lagging = {each.partition: (each.committed, each.end_offset) for each in await read_lag(settings) if each.lag > 0}
    if not lagging:
        return False
    waiting = await first_waiting(settings, lagging)
    if len(waiting) < len(lagging):  # a partition cannot be read: any id may be among its records
        oldest_ms = 0
    else:
        oldest_ms = min((each.last_append_ms for each in waiting.values() if each), default=int(time.time() * 1000))
    progress = Progress(settings)
    progress.settled_ms = oldest_ms
    return progress.may_be_in_flight(interaction_id)
