"""Tally: search interactions through Kafka into ClickHouse, with every accepted event accounted for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producers.producer import ImportedInteraction, NotAccepted, Producer, Receipt
    from runtime.errors import Fatal, RecordRefused, SettingsError, TallyError, Unavailable
    from runtime.settings import Settings
    from schemas.interaction import Interaction

__all__ = [
    "Fatal",
    "ImportedInteraction",
    "Interaction",
    "NotAccepted",
    "Producer",
    "Receipt",
    "RecordRefused",
    "Settings",
    "SettingsError",
    "TallyError",
    "Unavailable",
]

_HOMES = {
    "producers.producer": ("ImportedInteraction", "NotAccepted", "Producer", "Receipt"),
    "runtime.errors": ("Fatal", "RecordRefused", "SettingsError", "TallyError", "Unavailable"),
    "runtime.settings": ("Settings",),
    "schemas.interaction": ("Interaction",),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line imports this package too."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
