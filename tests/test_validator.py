"""The validator: refused events, each with its reason and field."""

import json
from typing import Any

import pytest

from schemas.interaction import INTERACTION_TYPES, REFERENCE_TYPES
from schemas.rejection import Rejection
from schemas.validator import validate
from schemas.wire import ACCEPTED_KEYS, ValidEvent

GOOD: dict[str, Any] = {"feature_id": "doc-1", "interaction_type": ["click"], "position": 3}


def good_with(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


def raw_with(field: str, text: str) -> bytes:
    """A good value with one field written as given, valid JSON or not."""
    return json.dumps(GOOD)[:-1].encode() + f', "{field}": {text}}}'.encode()


REFUSED = {
    "null value": (None, "tombstone", ""),
    "no bytes": (b"", "empty", ""),
    "not JSON": (b"feature_id=doc-1", "not_json", ""),
    "cut off": (json.dumps(GOOD).encode()[:-3], "not_json", ""),
    "trailing text": (json.dumps(GOOD).encode() + b" x", "not_json", ""),
    "not UTF-8": (b'{"feature_id": "\xff"}', "not_utf8", ""),
    "not UTF-8 in metadata": (good_with(metadata={"a": "?"}).replace(b"?", b"\xff"), "not_utf8", ""),
    "half a surrogate": (raw_with("metadata", '{"a": "\\ud800"}'), "not_utf8", ""),
    "half a surrogate that a later key hides": (
        raw_with("metadata", '{"a": "\\ud800"}, "metadata": {}'),
        "not_utf8",
        "",
    ),
    "quotes without end": (good_with()[:-1] + b', "' + rb"\"" * 500_000, "not_json", ""),
    "a list": (b"[]", "not_an_object", ""),
    "NaN": (raw_with("document_score", "NaN"), "not_json", ""),
    "Infinity in metadata": (raw_with("metadata", '{"a": Infinity}'), "not_json", ""),
    "1e999": (raw_with("document_score", "1e999"), "number_out_of_range", ""),
    "1e999 in metadata": (raw_with("metadata", '{"a": 1e999}'), "number_out_of_range", ""),
    "5,000 digits": (raw_with("metadata", '{"a": 1%s}' % ("0" * 5000)), "number_out_of_range", ""),
    "5,000 levels": (raw_with("metadata", "[" * 5000 + "]" * 5000), "too_deep", ""),
    "33 levels": (raw_with("metadata", '{"a":' * 32 + "1" + "}" * 32), "too_deep", ""),
    "wrong type": (good_with(position="3"), "wrong_type", "position"),
    "true as a number": (good_with(position=True), "wrong_type", "position"),
    "a fraction": (good_with(position=1.5), "wrong_type", "position"),
    "metadata as text": (good_with(metadata="{}"), "wrong_type", "metadata"),
    "unknown type name": (good_with(interaction_type=["clik"]), "unknown_interaction_type", "interaction_type.0"),
    "no types": (good_with(interaction_type=[]), "missing_field", "interaction_type"),
    "unknown key": (good_with(colour="red"), "unknown_field", "colour"),
    "missing field": (b'{"interaction_type": ["click"], "position": 0}', "missing_field", "feature_id"),
    "negative": (good_with(position=-1), "number_out_of_range", "position"),
    "past 32 bits": (good_with(position=2**31), "number_out_of_range", "position"),
    "20 digits": (raw_with("result_set_size", "99999999999999999999"), "number_out_of_range", "result_set_size"),
    "empty result set": (good_with(result_set_size=0), "conflict", ""),
    "1 MiB of metadata": (good_with(metadata={"a": "x" * 1024 * 1024}), "too_large", "metadata"),
    "a long id": (good_with(user_id="ä" * 257), "too_large", "user_id"),
    "year 10000": (good_with(occurred_at="10000-01-01T00:00:00Z"), "bad_time", "occurred_at"),
    "year 2262": (good_with(occurred_at="2262-01-01T00:00:00Z"), "bad_time", "occurred_at"),
    "before 1970": (good_with(occurred_at="1969-12-31T23:59:59Z"), "bad_time", "occurred_at"),
    "30 February": (good_with(occurred_at="2026-02-30T00:00:00Z"), "bad_time", "occurred_at"),
    "a date without a time": (good_with(occurred_at="2026-02-03"), "bad_time", "occurred_at"),
    "a time as a number": (good_with(occurred_at=1700000000), "wrong_type", "occurred_at"),
    "another document": (good_with(document_id="doc-2"), "conflict", ""),
    "an id of our own making": (good_with(interaction_id="int_1"), "bad_id", "interaction_id"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_invalid_event_is_rejected_with_reason_and_field(what: str) -> None:
    value, reason, field = REFUSED[what]
    verdict = validate(value)
    assert isinstance(verdict, Rejection)
    assert (verdict.reason, verdict.field) == (reason, field)
    assert verdict.message


def accepted(value: bytes) -> ValidEvent:
    verdict = validate(value)
    assert isinstance(verdict, ValidEvent), verdict
    return verdict


def test_an_unknown_key_is_rejected_with_the_known_keys() -> None:
    verdict = validate(good_with(colour="red"))
    assert isinstance(verdict, Rejection)
    assert all(key in verdict.message for key in ACCEPTED_KEYS)


@pytest.mark.parametrize("name", INTERACTION_TYPES)
def test_every_published_type_is_accepted(name: str) -> None:
    assert accepted(good_with(interaction_type=[name])).event.interaction_type == [name]


def test_there_are_17_reference_types() -> None:
    assert len(REFERENCE_TYPES) == 17
    assert REFERENCE_TYPES[-1] == "return_to_results"


def test_document_id_stands_for_feature_id() -> None:
    value = b'{"document_id": "doc-9", "interaction_type": ["view"], "position": 0}'
    assert accepted(value).event.feature_id == "doc-9"
    assert accepted(good_with(document_id="doc-1")).event.feature_id == "doc-1"


def test_objects_are_kept_as_they_were_written() -> None:
    text = '{ "n": 1.10, "big": 99999999999999999999999, "n": 2e0 }'
    event: Any = accepted(raw_with("metadata", text)).event
    assert bytes(event.metadata) == text.encode()


def test_the_last_of_repeated_keys_is_used() -> None:
    assert (
        accepted(b'{"feature_id":1,"feature_id":"b","interaction_type":["view"],"position":0}').event.feature_id == "b"
    )


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00", 0),
        ("2026-01-01T00:00:00Z", 1767225600000),
        ("2026-01-01t01:30:00.1239+01:30", 1767225600123),
        ("2261-12-31 23:59:59.999", 9214646399999),
    ],
)
def test_event_time_is_whole_milliseconds_utc(text: str, milliseconds: int) -> None:
    assert accepted(good_with(occurred_at=text)).occurred_ms == milliseconds


def test_32_levels_and_64_kib_are_accepted() -> None:
    accepted(raw_with("metadata", '{"a":' * 31 + "1" + "}" * 31))
    accepted(raw_with("metadata", '{"a":"%s"}' % ("x" * (65536 - 8))))
    assert isinstance(validate(raw_with("metadata", '{"a":"%s"}' % ("x" * (65536 - 7)))), Rejection)
