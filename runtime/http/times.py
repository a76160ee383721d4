"""Times in requests and answers."""

from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from schemas.event_time import iso_ms, parse_time_or_day


def _parsed(value: object) -> datetime:
    """Parse a time. Raises ValueError, also for a JSON value that is no text."""
    if not isinstance(value, str):
        raise ValueError("a time is a text in ISO 8601")
    return parse_time_or_day(value)


Time = Annotated[datetime, BeforeValidator(_parsed, json_schema_input_type=str)]
"""ISO 8601; UTC without an offset, midnight without a time."""

AnswerTime = Annotated[
    datetime,
    PlainSerializer(iso_ms, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Time in an answer: ISO 8601 in UTC with milliseconds and Z."""
