"""Whether an event without an outcome may have been accepted: asked once, by a command that cannot watch the log."""

import time

from readers.overview import read_lag
from readers.progress import ConsumerProgress
from runtime.log_batches import find_first_waiting
from runtime.settings import Settings


async def may_be_in_flight(settings: Settings, interaction_id: str) -> bool:
    """Whether records wait that an id of this time may be among. Raises Unavailable when Kafka does not answer.

    An outcome that is looked for after this said no will be found if there is any.
    """
    lagging = {each.partition: (each.committed, each.end_offset) for each in await read_lag(settings) if each.lag > 0}
    if not lagging:
        return False
    waiting = await find_first_waiting(settings, lagging)
    if len(waiting) < len(lagging):  # a partition that cannot be read: its records wait, whatever they are
        oldest_ms = 0
    else:
        oldest_ms = min((each.last_append_ms for each in waiting.values() if each), default=int(time.time() * 1000))
    progress = ConsumerProgress(settings)
    progress.settled_ms = oldest_ms
    return progress.may_be_in_flight(interaction_id)
