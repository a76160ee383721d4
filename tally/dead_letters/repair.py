"""Repair of a dead letter: the record that replays it, with a patch, and the verdict about it."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from schemas.identity import derive_replay_id
from schemas.letter import Letter
from schemas.merge_patch import merge_patch
from schemas.rejection import Rejection
from schemas.validator import validate_record
from schemas.wire import (
    DEDUPLICATE_HEADER,
    DERIVED_ID_HEADER,
    IDEMPOTENCY_HEADER,
    NAMESPACE_HEADER,
    ORIGIN_HEADER,
    ValidEvent,
    check_idempotency_key,
    check_namespace,
    decode_number,
    encode_headers,
    partition_key,
)


class ReplayRecord(NamedTuple):
    """Dead letter that is valid now, with the record that replays it."""

    letter: Letter
    interaction_id: str
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Repair(NamedTuple):
    """Value of a letter with a patch merged in, and the verdict about it."""

    value: bytes | None
    problems: tuple[Rejection, ...]
    """Everything that is wrong with it; empty for a valid event."""
    event: ValidEvent | None
    record: ReplayRecord | None
    """Record that replays the letter; None while there are problems."""


def repair(letter: Letter, patch: dict[str, Any] | None = None, as_namespace: str | None = None) -> Repair:
    """Merge a patch into a letter's value, and decide whether it is valid now.

    The origin's time becomes the event time. The id is derived from the origin: replaying twice stores once.
    """
    headers = dict(letter.headers)
    namespace = as_namespace or _text(headers, NAMESPACE_HEADER, letter.namespace)
    token = _text(headers, IDEMPOTENCY_HEADER, "")
    given_ms = decode_number(headers.get(ORIGIN_HEADER))
    if given_ms is None or given_ms > letter.append_ms:  # the letter was rejected for this header
        given_ms = None
    # A replayed letter that was rejected again, or a valid event that was not moved: it keeps its id.
    stays = letter.reason == "not_moved" or (DERIVED_ID_HEADER in headers and given_ms is not None)
    new_id = letter.interaction_id if stays else derive_replay_id(*letter.origin, letter.append_ms)
    value = letter.value
    with suppress(ValueError):  # the validator has the better message for a value that is no object
        value = merge_patch(value or b"", {**(patch or {}), "interaction_id": new_id})
    problems = tuple(_header_problems(namespace, token))
    validated = validate_record(value)
    if not isinstance(validated, ValidEvent):
        return Repair(value, (*problems, *validated), None, None)
    if problems:
        return Repair(value, problems, validated, None)
    token = "" if validated.event.execution_id else token
    headers_now = encode_headers(
        namespace,
        derived_id=True,
        idempotency_key=token,
        origin_ms=letter.append_ms if given_ms is None else given_ms,
        deduplicate=headers.get(DEDUPLICATE_HEADER) != b"0",
    )
    key = partition_key(namespace, validated.event, token)
    return Repair(value, (), validated, ReplayRecord(letter, new_id, key, value or b"", headers_now))


def _header_problems(namespace: str, token: str) -> Iterator[Rejection]:
    try:
        check_namespace(namespace)
    except ValueError as error:
        yield Rejection("bad_header", "", f"{error}; choose the namespace of the replay")
    try:
        if token:
            check_idempotency_key(token)
    except ValueError as error:
        yield Rejection("bad_header", "", str(error))


def _text(headers: dict[str, bytes | None], name: str, default: str) -> str:
    """Decode a header's text; one that is not UTF-8 counts as empty."""
    if name not in headers:
        return default
    try:
        return (headers[name] or b"").decode()
    except UnicodeDecodeError:
        return ""
