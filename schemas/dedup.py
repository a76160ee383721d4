"""Deduplication rule as pure functions.

An event is a duplicate of a stored event with the same key at a lower offset of the same partition, if their event
times differ by less than W and their append times by less than 2W. Of several such events, `duplicate_of` names the
one with the lowest offset. After an expansion, events stored on the parent partition count as events at lower offsets
(`runtime/expansions.py`). Only `is_duplicate_of` decides this: `consumers/claims/owners.py` applies it to claims,
`consumers/claims/stored_owners.py` to rows of ClickHouse.

A misplaced event is moved without a decision, and its copy is decided about (`consumers/moves.py`).

Two kinds of events are compared with older ones. An event with an id from outside is a duplicate of any stored event
with the same id at a lower offset of its partition. A replayed dead letter is appended long after it happened, so only
its event time is compared.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

DEFAULT_WINDOW_MS = 300_000
"""Default of the deduplication window W: the published service's "within the last 5 minutes"."""

APPEND_WINDOWS = 2
"""Append times of an event and its owner differ by less than this number of W."""

KEY_BYTES = 16

DuplicateReason = Literal[
    "same_key",  # within the window, by event and append time
    "same_id",  # an id from outside that is stored already
    "replayed",  # a replayed dead letter: within the window by event time
]


class Occurrence(Protocol):
    """Attributes of an event that the rule compares, apart from its key. Times are in ms since 1970."""

    @property
    def offset(self) -> int: ...
    @property
    def event_ms(self) -> int: ...
    @property
    def append_ms(self) -> int: ...


def dedup_key(
    namespace: str, execution_id: str | None, feature_id: str, types: Sequence[str], idempotency_key: str | None = None
) -> bytes | None:
    """Return the deduplication key of an event, KEY_BYTES long, or None for an event without one.

    The key hashes namespace, execution, feature and set of types. Without an execution it hashes namespace and
    idempotency key; an event with neither is never a duplicate. The hash is cryptographic, because a tenant who could
    forge a collision could make another event vanish. Lengths are part of the input, so different tuples differ.
    """
    tenant = namespace.encode()
    if execution_id:
        execution, feature = execution_id.encode(), feature_id.encode()
        sizes = b"%d %d %d " % (len(tenant), len(execution), len(feature))
        text = sizes + tenant + execution + feature + ",".join(sorted(set(types))).encode()
        return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()
    if idempotency_key:
        text = b"%d %b%b" % (len(tenant), tenant, idempotency_key.encode())
        return hashlib.blake2b(text, digest_size=KEY_BYTES, person=b"idempotency").digest()
    return None


def is_duplicate_of(event: Occurrence, owner: Occurrence, window_ms: int, *, replayed: bool = False) -> bool:
    """Return whether `event` is a duplicate of `owner`, given that both have the same key and partition."""
    return (
        owner.offset < event.offset
        and abs(event.event_ms - owner.event_ms) < window_ms
        and (replayed or event.append_ms - owner.append_ms < APPEND_WINDOWS * window_ms)
    )
