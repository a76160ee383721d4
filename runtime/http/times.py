"""Times in requests."""

from datetime import datetime
from typing import Annotated

from pydantic import BeforeValidator

from schemas.event_time import parse_time_or_day

Time = Annotated[datetime, BeforeValidator(parse_time_or_day, json_schema_input_type=str)]
"""ISO 8601; UTC without an offset, midnight without a time."""
