"""Description of an interaction's fields, read from the annotations of its model.

`schemas.interaction.Interaction` is the table: one line a field. Everything that has to list fields derives its list
from `schemas.interaction.FIELDS`: the wire format, the scanner, the columns, the record and the filters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

FieldKind = Literal["text", "types", "integer", "float", "object", "time"]
"""How a field is read, stored and compared. There is one field of kind `types`, and one of kind `time`."""

MAX_NAME_BYTES = 29
"""Longest name of a field: the scanner compares a name, its quotes and its colon in one step."""

_EMPTY: Final[dict[FieldKind, str]] = {"text": "''", "object": "''", "types": "[]"}
"""SQL literals of values that say nothing, for the kinds that are not numbers."""


@dataclass(frozen=True)
class FieldType:
    """Annotation of a field's type: its kind, and its bound where the kind has none of its own."""

    kind: FieldKind
    max_bytes: int = 0
    """Largest size: of a text in UTF-8, of an object in JSON. 0 for kinds with a bound of their own."""


class Kept:
    """Annotation of a field that a tombstone keeps, because the deduplication key contains it."""


@dataclass(frozen=True)
class FieldSpec:
    """A field of an interaction."""

    name: str
    kind: FieldKind
    max_bytes: int
    required: bool
    """Whether every interaction has it. Absent values of the other fields are null on the wire."""
    kept: bool
    """Whether a tombstone keeps its value."""

    @property
    def nullable(self) -> bool:
        """Whether its column holds null. An absent object is the empty text."""
        return not self.required and self.kind != "object"

    @property
    def erased(self) -> str:
        """SQL literal that a tombstone has in its place, unless it is kept."""
        return "NULL" if self.nullable else _EMPTY.get(self.kind, "0")


def fields_of(model: type[BaseModel]) -> tuple[FieldSpec, ...]:
    """Read the fields of a model in the order of their declaration.

    Raises TypeError for a field without a FieldType, with a name that is too long, or of a kind that is taken.
    """
    fields = tuple(_field(name, info) for name, info in model.model_fields.items())
    for kind in ("types", "time"):
        if len([field for field in fields if field.kind == kind]) > 1:
            raise TypeError(f"{model.__name__} has two fields of kind {kind}, of which there can be one")
    return fields


def _field(name: str, info: FieldInfo) -> FieldSpec:
    annotations = list(_annotations(info))
    types = [each for each in annotations if isinstance(each, FieldType)]
    if len(types) != 1:
        raise TypeError(f"the type of field {name} has {len(types)} FieldType annotations instead of one")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise TypeError(f"the name of field {name} is longer than {MAX_NAME_BYTES} bytes")
    return FieldSpec(name, types[0].kind, types[0].max_bytes, info.is_required(), Kept in annotations)


def _annotations(info: FieldInfo) -> Iterator[object]:
    """Annotations of a field and of its type without None."""
    return chain(info.metadata, *(getattr(each, "__metadata__", ()) for each in get_args(info.annotation)))
