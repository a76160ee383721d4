"""Interactions from JSON lines of a file or standard input."""

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pydantic import ValidationError

from schemas.interaction import Interaction
from schemas.rejection import Rejection
from schemas.validator import rejection_of, validate

MAX_LINE_BYTES = 1024 * 1024

_OTHER_ENCODING = Rejection("not_utf8", "", "the input is UTF-16 or UTF-32: save it as UTF-8")
_ONE_PER_LINE = "one object per line"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')


class Line(NamedTuple):
    """Line of input: its number from 1, and its interaction or rejection."""

    number: int
    content: Interaction | Rejection


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """Yield every line that is not blank. A line longer than MAX_LINE_BYTES is rejected without being held whole.

    A byte order mark is skipped. A JSON array, and an object over several lines, are one rejection. If no valid line
    comes before it, it is the last, as is that of input in UTF-16 or UTF-32: the rest has the same fault.
    """
    lines, has_interactions = _NumberedLines(file), False
    for number, content in lines:
        found, is_fault_of_all = _parse(number, content, lines)
        yield Line(number, found)
        if is_fault_of_all and not has_interactions:
            return
        has_interactions = has_interactions or isinstance(found, Interaction)


class _NumberedLines:
    """Lines that are not blank, with their numbers from 1; in place of a line that is not read, its rejection."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = self._read(file)
        self._next: list[tuple[int, bytes | Rejection]] = []

    def __iter__(self) -> Iterator[tuple[int, bytes | Rejection]]:
        while (line := self.peek()) is not None:
            self._next.clear()
            yield line

    def peek(self) -> tuple[int, bytes | Rejection] | None:
        """Return the next line, which stays the next; None at the end."""
        if not self._next and (line := next(self._lines, None)) is not None:
            self._next.append(line)
        return self._next[0] if self._next else None

    @staticmethod
    def _read(file: BinaryIO) -> Iterator[tuple[int, bytes | Rejection]]:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1 and raw.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                yield number, _OTHER_ENCODING
            elif len(raw) > MAX_LINE_BYTES:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_LINE_BYTES)
                yield number, Rejection("too_large", "", f"the line is longer than {MAX_LINE_BYTES} bytes")
            elif _text(raw):
                yield number, raw


def _text(raw: bytes) -> bytes:
    return raw.removeprefix(BOM_UTF8).strip()


def _parse(number: int, content: bytes | Rejection, following: _NumberedLines) -> tuple[Interaction | Rejection, bool]:
    """Parse a line, and skip the rest of an object that begins on it. Also return whether all lines have its fault."""
    if isinstance(content, Rejection):
        return content, content is _OTHER_ENCODING
    found = parse_interaction(content)
    if isinstance(found, Interaction):
        return found, False
    if _text(content).startswith(b"["):
        return Rejection(found.reason, "", f"{_ONE_PER_LINE}: this is an array (jq -c '.[]' splits it)"), True
    if found.reason == "not_json" and (last := _skip_object(content, following)):
        why = f"{_ONE_PER_LINE}: lines {number} to {last} are one (jq -c . joins them)"
        return Rejection(found.reason, "", why), True
    return found, False


def _skip_object(first: bytes, following: _NumberedLines) -> int | None:
    """Skip the lines that continue an object, and return the number of the last; None when no line continues it.

    A line that begins with { does not continue the first one, which was cut off. A whole interaction ends it, too.
    """
    depth, last = _open_brackets(first), None
    while depth > 0 and (line := following.peek()) is not None:
        number, content = line
        text = b"" if isinstance(content, Rejection) else _text(content)
        is_object = text.startswith(b"{")
        if not text or (is_object and (last is None or isinstance(parse_interaction(text), Interaction))):
            break
        next(iter(following))
        depth, last = depth + _open_brackets(text), number
    return last


def _open_brackets(text: bytes) -> int:
    """Return how many brackets a line opens and does not close. Strings are skipped: they do not span lines."""
    plain = _STRING.sub(b"", text)
    return plain.count(b"{") + plain.count(b"[") - plain.count(b"}") - plain.count(b"]")


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
