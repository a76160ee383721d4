"""Interactions from JSON lines of a file or standard input."""

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pydantic import ValidationError

from schemas.interaction import Interaction
from schemas.rejection import Rejection
from schemas.validator import rejection_of, validate

MAX_LINE_BYTES = 1024 * 1024


class Line(NamedTuple):
    """Line of input: its number from 1, and its interaction or rejection."""

    number: int
    content: Interaction | Rejection


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Yield every line that is not blank. A line longer than MAX_LINE_BYTES is rejected without being held whole.

    A byte order mark is skipped. Input in UTF-16 or UTF-32 is rejected as a whole, at its first line.
    """
    number = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if number == 1 and raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            yield Line(number, Rejection("not_utf8", "", "the input is UTF-16 or UTF-32: save it as UTF-8"))
            return
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES)
            yield Line(number, Rejection("too_large", "", f"the line is longer than {MAX_LINE_BYTES} bytes"))
        elif raw.removeprefix(BOM_UTF8).strip():
            yield Line(number, parse_interaction(raw))


def parse_interaction(raw: bytes) -> Interaction | Rejection:
    """Parse an interaction from JSON, validated like a record of the topic."""
    validated = validate(raw)
    if isinstance(validated, Rejection):
        return validated
    if validated.event.interaction_id is not None:
        return Rejection("bad_id", "interaction_id", "is assigned by Tally: omit it")
    fields = json.loads(raw)
    fields.pop("interaction_id", None)
    try:
        return Interaction.model_validate(fields)
    except ValidationError as error:  # an object may be longer in Tally's encoding than in the input
        return rejection_of(error)
