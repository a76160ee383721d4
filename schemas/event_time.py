"""Event time: accepted forms of `occurred_at`, and its conversion to whole milliseconds.

The validator and the producer call these functions, so an event time cannot differ between them.
"""

import re
from datetime import UTC, datetime, timedelta

from pydantic_core import PydanticCustomError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# ClickHouse's DateTime64 is safe to its nanosecond limit, 2262-04-11; the year 2262 is left out whole.
END_MS = 9_214_646_400_000

# Narrower than `datetime.fromisoformat`, whose grammar grew between Python versions: a verdict must not depend
# on the Python version of the validating process.
_ISO_8601 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]([01][0-9]|2[0-3]):[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?"
    r"([Zz]| ?[+-][0-9]{2}(:?[0-9]{2})?)?"
)
_BLANK_BEFORE_OFFSET = re.compile(" (?=[+-])")
_MILLISECOND = timedelta(milliseconds=1)


def parse_time_or_day(text: str) -> datetime:
    """Read a time as `parse_occurred_at` does, or a date, which stands for its midnight in UTC."""
    return parse_occurred_at(text if "T" in text.upper() or " " in text else f"{text}T00:00")


def parse_occurred_at(text: str) -> datetime:
    """Read an ISO 8601 time, or one as databases print it, with or without an offset (without: UTC).

    T or a blank before the time, seconds and up to 9 decimals of them or none, then nothing, Z, +05, +0530 or +05:30,
    perhaps after a blank; t and z in either case.

    Raises PydanticCustomError (a ValueError) `bad_time` for another form, for a day or hour that does not
    exist, and for a time before 1970 or from 2262 on.
    """
    if not _ISO_8601.fullmatch(text):
        raise PydanticCustomError("bad_time", "is not an ISO 8601 date and time, such as 2026-11-27T10:00:00Z")
    try:
        parsed = datetime.fromisoformat(_BLANK_BEFORE_OFFSET.sub("", text).upper())
        aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        to_epoch_ms(aware)
    except PydanticCustomError:
        raise
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("bad_time", "is no time that exists") from error
    return aware


def to_epoch_ms(moment: datetime) -> int:
    """Return whole milliseconds since 1970, rounded down. Raises PydanticCustomError `bad_time` outside 1970-2262."""
    try:
        epoch_ms = (moment - EPOCH) // _MILLISECOND
    except OverflowError:
        epoch_ms = -1
    if not 0 <= epoch_ms < END_MS:
        raise PydanticCustomError("bad_time", "is outside 1970 to 2262")
    return epoch_ms


def from_epoch_ms(epoch_ms: int) -> datetime:
    """Return the UTC datetime of whole milliseconds since 1970, exactly."""
    return EPOCH + timedelta(milliseconds=epoch_ms)


def iso_ms(moment: datetime) -> str:
    """Write a time as all of Tally's output does: ISO 8601, UTC, three decimals, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
