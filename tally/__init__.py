"""Tally: search interactions through Kafka into ClickHouse, with every accepted event accounted for."""

from producers.producer import Imported, NotAccepted, Producer, Receipt
from runtime.errors import Fatal, RefusedByBroker, SettingsError, TallyError, Unavailable
from runtime.settings import Settings
from schemas.interaction import Interaction

__all__ = [
    "Fatal",
    "Imported",
    "Interaction",
    "NotAccepted",
    "Producer",
    "Receipt",
    "RefusedByBroker",
    "Settings",
    "SettingsError",
    "TallyError",
    "Unavailable",
]
