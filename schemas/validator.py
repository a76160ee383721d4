"""Validator: the strict, slow path, which decides about every event that the scanner leaves, and words rejections."""

import json
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import Any, Never

import msgspec
from msgspec import Raw
from pydantic import ValidationError

from schemas.event_time import to_epoch_ms
from schemas.identity import is_interaction_id
from schemas.interaction import MAX_OBJECT_BYTES, OBJECT_FIELDS, Interaction
from schemas.json_bounds import MAX_DEPTH, depth_of_text
from schemas.rejection import Reason, Rejection
from schemas.wire import ACCEPTED_KEYS, FIELD_NAMES, NULL, REQUEST_KEYS, ValidEvent, wire_event

_REASONS: dict[str, Reason] = {
    "missing": "missing_field",
    "too_short": "missing_field",
    "extra_forbidden": "unknown_field",
    "literal_error": "unknown_interaction_type",
    "greater_than_equal": "number_out_of_range",
    "less_than_equal": "number_out_of_range",
    "finite_number": "number_out_of_range",
    "int_parsing_size": "number_out_of_range",
    "too_long": "too_large",
    "too_large": "too_large",
    "too_deep": "too_deep",
    "bad_time": "bad_time",
    "not_utf8": "not_utf8",
    "not_json": "not_json",
    "conflict": "conflict",
    "empty_result_set": "conflict",
}
"""Reasons by pydantic's error types; other error types are a wrong type."""

MOST_UNKNOWN_KEYS = 20
"""Largest number of undeclared keys that are named one by one; further ones are counted."""


class _Refused(Exception):
    """Refusal of a value; `args` are rejections."""

    @classmethod
    def because(cls, reason: Reason, field: str, message: str) -> "_Refused":
        return cls(Rejection(reason, field, message))


def validate(value: bytes | None) -> ValidEvent | Rejection:
    """Decide about one record value: the event to store, or why it can never be valid. Never raises."""
    found = validate_record(value)
    return found if isinstance(found, ValidEvent) else first_of(found)


def validate_record(value: bytes | None) -> ValidEvent | Sequence[Rejection]:
    """Decide about one record value: the event to store, or everything that is wrong with it. Never raises."""
    value = None if value is None else value.removeprefix(BOM_UTF8)  # RFC 8259 lets readers ignore it
    try:
        fields = _parse(_decode(value))
        return _validate(value or b"", fields, _take_id(fields))
    except _Refused as refused:
        return refused.args


def validate_request(value: bytes) -> ValidEvent | Sequence[Rejection]:
    """Decide about an event of an HTTP request: the event, or everything that is wrong with it. Never raises.

    In contrast to a record, a request must not contain an id.
    """
    try:
        return _validate(value, _parse(_decode(value)), None, accepted=REQUEST_KEYS)
    except _Refused as refused:
        return refused.args


def _take_id(fields: dict[str, Any]) -> str | None:
    interaction_id = fields.pop("interaction_id", None)
    if interaction_id is None or (isinstance(interaction_id, str) and is_interaction_id(interaction_id)):
        return interaction_id
    raise _Refused.because("bad_id", "interaction_id", "is not int_ and the 32 hex digits of a UUIDv7")


def _validate(
    value: bytes, fields: dict[str, Any], interaction_id: str | None, accepted: Sequence[str] = ACCEPTED_KEYS
) -> ValidEvent:
    objects = _take_objects(value, fields)
    left_out = _leave_out_unknown(fields, accepted)
    try:
        interaction = Interaction.model_validate(fields)
    except ValidationError as error:
        raise _Refused(*_rejections(error, accepted), *left_out) from None
    values = {name: getattr(interaction, name) for name in FIELD_NAMES}
    values |= {name: objects.get(name, NULL) for name in OBJECT_FIELDS}
    values |= {"occurred_at": fields.get("occurred_at"), "interaction_id": interaction_id}
    occurred_at = interaction.occurred_at
    return ValidEvent(wire_event(**values), None if occurred_at is None else to_epoch_ms(occurred_at))


def _leave_out_unknown(fields: dict[str, Any], accepted: Sequence[str]) -> list[Rejection]:
    """Remove undeclared keys from `fields`, all but MOST_UNKNOWN_KEYS, and return a rejection that counts them.

    The model makes an error of each key: a megabyte of keys would become a hundred megabytes of errors.
    """
    if len(fields) <= len(accepted) + MOST_UNKNOWN_KEYS:
        return []
    known = frozenset(accepted)
    unknown = [key for key in fields if key not in known][MOST_UNKNOWN_KEYS:]
    for key in unknown:
        del fields[key]
    return [Rejection("unknown_field", "", f"{len(unknown)} more keys are not keys of an interaction")]


def _decode(value: bytes | None) -> str:
    if value is None:
        raise _Refused.because("tombstone", "", "the record has no value")
    if not value:
        raise _Refused.because("empty", "", "the value is empty: a JSON object is expected")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise _Refused.because("not_utf8", "", f"invalid UTF-8 at byte {error.start}") from None


def _parse(text: str) -> dict[str, Any]:
    depth = depth_of_text(text)
    if depth > MAX_DEPTH:
        raise _Refused.because("too_deep", "", f"nests {depth} levels, at most {MAX_DEPTH} are allowed")
    shadowed: list[Any] = []

    def last_counts(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                shadowed.append(found[key])
            found[key] = value
        return found

    try:
        fields = json.loads(
            text, object_pairs_hook=last_counts, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        why = error.msg.removesuffix(" at")
        raise _Refused.because("not_json", "", f"is not JSON: {why} at character {error.pos}") from None
    except RecursionError:
        raise _Refused.because("too_deep", "", f"nests deeper than {MAX_DEPTH} levels") from None
    if not isinstance(fields, dict):
        raise _Refused.because("not_an_object", "", "the value must be a JSON object")
    if "\\u" in text:
        _refuse_half_surrogates([fields, shadowed])
    return fields


def _no_constant(name: str) -> Never:
    raise _Refused.because("not_json", "", f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number - number != 0:  # infinite
        raise _Refused.because("number_out_of_range", "", f"{digits[:40]} is larger than any double")
    return number


def _integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # the interpreter's bound on digits, against quadratic time
        raise _Refused.because("number_out_of_range", "", f"an integer of {len(digits)} digits") from None


def _refuse_half_surrogates(everything: list[Any]) -> None:
    try:
        json.dumps(everything, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _Refused.because("not_utf8", "", "an escape is half of a surrogate pair") from None


def _take_objects(value: bytes, fields: dict[str, Any]) -> dict[str, Raw]:
    """Return the JSON text of the object fields in `value`, and replace them in `fields` by empty objects.

    They are stored as they were written: parsing and printing them would change numbers.
    """
    if not any(isinstance(fields.get(name), dict) for name in OBJECT_FIELDS):
        return {}
    raw = msgspec.json.decode(value, type=dict[str, Raw])
    objects: dict[str, Raw] = {}
    for name in OBJECT_FIELDS:
        if isinstance(fields.get(name), dict):
            size = len(raw[name])
            if size > MAX_OBJECT_BYTES:
                limit = f"is {size} bytes of JSON, at most {MAX_OBJECT_BYTES} are allowed"
                raise _Refused.because("too_large", name, limit)
            objects[name], fields[name] = raw[name], {}
    return objects


def rejection_of(error: ValidationError) -> Rejection:
    """Return the rejection for errors of the model: the first one, and the number of others."""
    return first_of(_rejections(error, ACCEPTED_KEYS))


def first_of(rejections: Sequence[Rejection]) -> Rejection:
    """Return the first of several rejections, with the number of others in its message."""
    first, *others = rejections
    return first._replace(message=f"{first.message} (and {len(others)} more errors)") if others else first


def _rejections(error: ValidationError, accepted: Sequence[str]) -> list[Rejection]:
    found = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        reason, message = _REASONS.get(each["type"], "wrong_type"), each["msg"]
        if reason == "unknown_field":
            message = f"is not a key of an interaction; accepted are {', '.join(accepted)}"
        found.append(Rejection(reason, ".".join(str(part) for part in each["loc"])[:200], message))
    return found
