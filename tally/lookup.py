"""Lookup of one event by id, for a command."""

from readers.lookup import Lookups
from runtime import clickhouse
from runtime.settings import Settings
from schemas.outcome import Outcome
from tally.answering import asked, check_stores
from tally.in_flight import may_be_in_flight


def look_up(settings: Settings, namespace: str, interaction_id: str) -> tuple[Outcome | None, bool]:
    """Return the outcome of an event if it has one, and whether one may still come.

    Raises Unavailable when ClickHouse, or Kafka if `TALLY_KAFKA` is set, does not answer.
    """
    return asked(settings, ["clickhouse"], lambda: _look_up(settings, namespace, interaction_id))


async def _look_up(settings: Settings, namespace: str, interaction_id: str) -> tuple[Outcome | None, bool]:
    async with clickhouse.connect(settings) as database:
        lookups = Lookups(database, 1)
        outcome = await lookups.get(namespace, interaction_id)
        if outcome is not None or not settings.kafka:
            return outcome, False
        await check_stores(settings, "kafka")
        if await may_be_in_flight(settings, interaction_id):
            return None, True
        return await lookups.get(namespace, interaction_id), False
