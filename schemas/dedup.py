"""The deduplication rule: what makes an event a duplicate, as pure functions.

E is a duplicate of O when both have the same key, O was stored from a lower offset of the same partition,
their event times lie less than W apart and their append times less than 2W. `duplicate_of` is the id of the
lowest such offset. `runtime/claims.lua` computes this against Redis; `is_duplicate_of` is what it must equal.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

DEFAULT_WINDOW_MS = 300_000
"""W: the published service's "within the last 5 minutes"."""

KEY_BYTES = 16


class Occurrence(NamedTuple):
    """What the rule looks at in one event, apart from its key. Times in milliseconds since 1970."""

    offset: int
    interaction_id: str
    event_ms: int
    append_ms: int


def dedup_key(namespace: str, execution_id: str, feature_id: str, types: Iterable[str]) -> bytes:
    """16 bytes that name (namespace, execution, feature, set of types).

    A cryptographic hash, because a tenant who could forge a collision could make another event vanish. Lengths
    are part of the input, so no two tuples read alike.
    """
    names = ",".join(sorted(set(types)))
    text = f"{len(namespace)} {len(execution_id)} {len(feature_id)} {namespace}{execution_id}{feature_id}{names}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def is_duplicate_of(event: Occurrence, owner: Occurrence, window_ms: int) -> bool:
    """Whether `event` is a duplicate of `owner`, given that both have the same key and partition."""
    return (
        owner.offset < event.offset
        and abs(event.event_ms - owner.event_ms) < window_ms
        and event.append_ms - owner.append_ms < 2 * window_ms
    )
