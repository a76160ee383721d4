"""The deduplication rule: what makes an event a duplicate, as pure functions.

E is a duplicate of O when both have the same key, O was stored from a lower offset of the same partition,
their event times lie less than W apart and their append times less than 2W. `duplicate_of` is the id of the
lowest such offset. When a topic was expanded, what was stored before on the partition that a new one comes from
counts as of lower offsets (`runtime/expansions.py`). `is_duplicate_of` is the only place that decides this:
`consumers/claims/owners.py` applies it to claims, `consumers/claims/stored_owners.py` to rows of ClickHouse.

An event on another partition than its key's is not decided there: it is moved, and its copy is (`consumers/moves.py`).
The copy is also a duplicate of its own original, if an earlier version has stored that where it lay.

Two kinds of events look further back. One whose id came from outside is a duplicate of the stored event with the
same id, however old, at a lower offset of its partition. One replayed from a dead letter is appended long after it
happened, so its append time says nothing: event times alone decide.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, Protocol

DEFAULT_WINDOW_MS = 300_000
"""W: the published service's "within the last 5 minutes"."""

APPEND_WINDOWS = 2
"""Append times of an event and its owner lie less than this many W apart."""

KEY_BYTES = 16

DuplicateReason = Literal[
    "same_key",  # within the window, by event and append time
    "same_id",  # an id from outside that is stored already, however long ago
    "replayed",  # a dead letter put back: within the window by event time alone
    "stored_misplaced",  # the copy of a misplaced event that was stored where it lay, by a version that did not move it
]


class Occurrence(Protocol):
    """Event as the rule sees it, apart from its key. Times in milliseconds since 1970."""

    @property
    def offset(self) -> int:
        """Offset in the partition's log."""

    @property
    def event_ms(self) -> int:
        """Event time."""

    @property
    def append_ms(self) -> int:
        """Append time."""


def dedup_key(
    namespace: str, execution_id: str | None, feature_id: str, types: Sequence[str], idempotency_key: str | None = None
) -> bytes | None:
    """16 bytes that name (namespace, execution, feature, set of types), or (namespace, idempotency key), or None.

    An event of an execution is named by that tuple; one without by its idempotency key; one without either is
    never a duplicate of another. A cryptographic hash, because a tenant who could forge a collision could make
    another event vanish. Lengths are part of the input, so no two tuples read alike.
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
    """Whether `event` is a duplicate of `owner`, given that both have the same key and partition."""
    return (
        owner.offset < event.offset
        and abs(event.event_ms - owner.event_ms) < window_ms
        and (replayed or event.append_ms - owner.append_ms < APPEND_WINDOWS * window_ms)
    )
