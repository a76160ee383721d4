"""Fields that filters compare and lists are sorted by, found by their names."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from schemas.fields import FieldKind
from schemas.interaction import FIELDS, OBJECT_FIELDS

FilterKind = Literal["text", "number", "time", "texts", "json"]

_COMPARED_AS: dict[FieldKind, FilterKind] = {
    "text": "text",
    "types": "texts",
    "integer": "number",
    "float": "number",
    "time": "time",
}
FILTER_FIELDS: dict[str, FilterKind] = {
    "interaction_id": "text",
    **{field.name: _COMPARED_AS[field.kind] for field in FIELDS if field.kind in _COMPARED_AS},
    "timestamp": "time",
}
"""Fields that conditions compare and lists are sorted by, with what they are compared as. Objects are apart."""
ALIASES = {"document_id": "feature_id", "created_at": "timestamp"}

MAX_PATH = 16
"""Largest number of keys after the name of an object field."""
MAX_NAME_BYTES = 512
_NAME_PARTS = re.compile(r"\\?.", re.DOTALL)


class FilterError(ValueError):
    """Invalid filter; `where` is the path to the fault in the request's body."""

    def __init__(self, where: Sequence[str | int], message: str) -> None:
        super().__init__(message)
        self.where = list(where)


class FilterField(NamedTuple):
    """Column, or with `path` a place in an object."""

    column: str
    kind: FilterKind
    path: tuple[str, ...] = ()


def is_plain(text: str) -> bool:
    """Return whether a stored text can contain `text`: it has no half of a surrogate pair."""
    return text.encode(errors="replace").decode() == text


def field_named(name: str, where: Sequence[str | int]) -> FilterField:
    """Return the field of a name, dotted for a place in an object. Raises FilterError."""
    if not is_plain(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise FilterError(where, f"a name is plain text of at most {MAX_NAME_BYTES} bytes")
    column, *path = _keys(ALIASES.get(name, name), where)
    if column in OBJECT_FIELDS:
        if len(path) > MAX_PATH:
            raise FilterError(where, f"{name[:100]!r} leads deeper than {MAX_PATH} levels")
        return FilterField(column, "json", tuple(path))
    if path or column not in FILTER_FIELDS:
        raise FilterError(where, f"{name[:100]!r} is not a field{_hint(name[:100])}")
    return FilterField(column, FILTER_FIELDS[column])


def _hint(name: str) -> str:
    """Return what to write instead of an unknown name, as the end of a sentence."""
    if name == "event_time":
        return ": it is occurred_at where the sender gave it, else timestamp; filter by one of these two"
    known = ", ".join([*FILTER_FIELDS, *(f"{each}.…" for each in OBJECT_FIELDS)])
    return f" (a key of the metadata is written metadata.{name.partition('.')[0]}); known are {known}"


def _keys(name: str, where: Sequence[str | int]) -> list[str]:
    """Split a dotted name into keys. A backslash makes the dot or backslash after it part of a key."""
    keys = [""]
    for part in _NAME_PARTS.findall(name):
        if part == ".":
            keys.append("")
        elif part[0] == "\\" and part not in ("\\.", "\\\\"):
            raise FilterError(where, f"a backslash in {name[:100]!r} must be followed by a dot or a backslash")
        else:
            keys[-1] += part[-1]
    return keys
