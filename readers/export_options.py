"""Columns of an export, from their text."""

from schemas.record import RECORD_FIELDS


def read_columns(text: str) -> tuple[str, ...]:
    """Read names of fields separated by commas. Raises ValueError for an unknown or repeated name."""
    columns = tuple(name.strip() for name in text.split(","))
    for name in columns:
        if name not in RECORD_FIELDS:
            raise ValueError(f"{name[:100]!r} is not a field; known are {', '.join(RECORD_FIELDS)}")
        if columns.count(name) > 1:
            raise ValueError(f"{name!r} is named twice")
    return columns
