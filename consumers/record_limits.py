"""Bounds of memory and of size within which records of a topic are read."""

from kernels.boundary import ReadLimits
from runtime.settings import Settings
from runtime.sizes import MIB
from schemas.letter import MOST_LETTER_BYTES, MOST_LETTER_HEADERS

EVENT_BYTES = 2 * MIB
"""Least bound of an event's size in bytes; a larger TALLY_MAX_RECORD_BYTES raises it."""
MOST_HEADERS = 1_000
"""Maximum headers of a record: each takes two bytes in a record batch, and a hundred in memory."""

DEFAULT_LIMITS = ReadLimits(
    batch_bytes=64 * MIB,
    record_bytes=EVENT_BYTES,
    record_headers=MOST_HEADERS,
    total_bytes=16 * MIB,
    rows=65_536,
    headers=524_288,
)


def event_limits(settings: Settings) -> ReadLimits:
    """Return the limits for the topic of events."""
    return DEFAULT_LIMITS._replace(
        batch_bytes=settings.batch_uncompressed_bytes, record_bytes=max(EVENT_BYTES, settings.max_record_bytes)
    )


def letter_limits(settings: Settings) -> ReadLimits:
    """Return the limits for the dead-letter topic: a letter has a whole record of that size, and the reason."""
    most_bytes = settings.batch_uncompressed_bytes + MOST_LETTER_BYTES
    return DEFAULT_LIMITS._replace(
        batch_bytes=most_bytes, record_bytes=most_bytes, record_headers=MOST_HEADERS + MOST_LETTER_HEADERS
    )
