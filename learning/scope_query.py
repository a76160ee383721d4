"""Query parameters of HTTP requests that learn from events."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

from learning.scope import MAX_TEXT_BYTES, LearningScope, Refusal, ScopeError, segment_path
from runtime.analytics import RangeTooLarge
from runtime.http.errors import ApiError, invalid, problem
from runtime.http.times import Time
from runtime.settings import Settings

DEFAULT_RANGE = timedelta(days=7)
RetrieverId = Annotated[str, Path(description="retriever whose results are learned from", max_length=MAX_TEXT_BYTES)]


class ScopeQuery(BaseModel):
    """Results of a range of event time, by default of the last seven days."""

    model_config = ConfigDict(extra="forbid")

    since: Time | None = Field(None, description="earliest event time, inclusive, ISO 8601")
    until: Time | None = Field(None, description="event time before which events are read, ISO 8601")
    by: str | None = Field(
        None, description="text in the metadata that divides the results", examples=["metadata.device"]
    )

    def scope(self, settings: Settings, namespace: str, retriever: str) -> LearningScope:
        """Return the scope of a request. Raises ApiError 422."""
        until = self.until or datetime.now(UTC)
        since = self.since or until - DEFAULT_RANGE
        try:
            path = segment_path(self.by)
            return LearningScope(namespace, retriever, since, until, path, settings.query_path).checked()
        except ScopeError as error:
            raise invalid([problem("bad_scope", ["query", error.parameter], str(error))]) from None


@contextmanager
def learning_errors(begin: str = "since") -> Iterator[None]:
    """Raise ApiError 422 for a refusal, with code `refused`, and for a range that is too large.

    `begin`: name of the parameter with the beginning of the range.
    """
    try:
        yield
    except Refusal as error:
        raise ApiError(422, str(error), code="refused") from None
    except RangeTooLarge as error:
        raise invalid([problem("bad_scope", ["query", begin], str(error))]) from None
