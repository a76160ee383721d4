"""Conditions on events as SQL. An event is found only by values that it shows."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from readers.event_models import EventVerdict
from runtime.clickhouse import BoundParameters

STORED_COLUMNS = (
    "interaction_id",
    "execution_id",
    "user_id",
    "session_id",
    "interaction_type",
    "retriever_id",
    "feature_id",
)
"""Columns of `interactions` that conditions name."""
OUTCOME_COLUMNS = ("interaction_id", "execution_id", "user_id")
"""Columns of these that `outcomes` keeps."""
DELETED_COLUMNS = ("interaction_id", "execution_id")
"""Columns of these that a deleted event shows."""
ID_COLUMNS = ("interaction_id", "execution_id", "user_id", "session_id")
"""Columns that `any_id` is compared with."""


class EventFilter(NamedTuple):
    """Verdicts to find, and a text for each column that is compared."""

    verdicts: tuple[EventVerdict, ...]
    texts: tuple[tuple[str, str], ...] = ()
    any_id: str | None = None

    @classmethod
    def of(
        cls, verdicts: Sequence[EventVerdict], texts: Mapping[str, object], any_id: str | None = None
    ) -> "EventFilter":
        """Make a filter of conditions by column; those without a value are left out."""
        given = tuple((name, str(texts[name])) for name in STORED_COLUMNS if texts.get(name) is not None)
        return cls(tuple(sorted(verdicts)), given, any_id)

    @property
    def columns(self) -> set[str]:
        """Columns that are compared, those of `any_id` aside."""
        return {name for name, _ in self.texts}

    def alternatives(self) -> "list[EventFilter]":
        """Return filters without `any_id` that together find the same, one for each column with an index of its own."""
        if self.any_id is None:
            return [self]
        return [EventFilter(self.verdicts, (*self.texts, (column, self.any_id))) for column in ID_COLUMNS]

    def with_verdicts(self, *among: EventVerdict) -> "EventFilter":
        """Return the filter with those of its verdicts that are `among` these."""
        return self._replace(verdicts=tuple(each for each in self.verdicts if each in among))


def matches(texts: Sequence[tuple[str, str]], bind: BoundParameters) -> list[str]:
    """Return the conditions that a row's columns have these texts."""
    return [
        f"has(interaction_type, {bind.bind(text, 'String')})"
        if name == "interaction_type"
        else f"{name} = {bind.bind(text, 'String')}"
        for name, text in texts
    ]
