"""Seeded traffic that has everything in it that a verdict may turn on: duplicates, times that are late, early or at a
window's very edge, ids and keys from outside, dead letters put back, events on wrong partitions, and records that can
never be valid."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

from schemas.event_time import from_epoch_ms, iso_ms
from schemas.identity import derive_foreign_id
from schemas.wire import encode_headers, encode_value, partition_key
from tests.lab import as_json, click

WINDOW_MS = 40
PARTITIONS = 3
"""Minimum partitions of a topic."""
LONG = {"longer": "than the narrowed table takes"}
"""Metadata that `NARROWED` refuses."""
NARROWED_BYTES = 16
NARROWED = f"ALTER TABLE interactions MODIFY COLUMN metadata FixedString({NARROWED_BYTES})"

EXECUTIONS = tuple(f"e{number}" for number in range(8))
DOCUMENTS = ("f0", "f1", "f2")
SESSIONS = tuple(f"s{number}" for number in range(5))
RETRIEVERS = ("learned", "unknown")
"""Retriever with a learning configuration, and one without."""
FEATURES = ("tally://text", 'tally://"image"')

_BAD = (b"", b"not json", b"[]", b'{"feature_id": 1}', b'{"a": "\xff"}', as_json(position=-1), as_json(extra=1), None)
_EPOCH_MS = 1_790_000_000_000


class Raw(NamedTuple):
    """Record to put on the topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int | None = None
    """Where to put it, whatever its key."""


class Traffic:
    """An endless source of records."""

    def __init__(self, random: Random, tokens: Mapping[tuple[str, str], str] | None = None) -> None:
        """`tokens` of interleaved results, by execution and document."""
        self._random = random
        self._tokens = tokens or {}
        self._ids = [derive_foreign_id("chaos", 0, number, random.randrange(2**40)) for number in range(12)]

    def record(self) -> Raw:
        """The next record."""
        kind = self._random.choices(
            ("live", "timed", "keyed", "foreign", "imported", "replayed", "misplaced", "bad"),
            (36, 22, 8, 8, 6, 3, 10, 7),
        )[0]
        return getattr(self, f"_{kind}")()  # type: ignore[no-any-return]

    def _facts(self) -> dict[str, Any]:
        """Few enough that most of it comes again."""
        choose = self._random.choice
        facts: dict[str, Any] = {
            "feature": choose(DOCUMENTS),
            "execution": choose(EXECUTIONS),
            "user_id": choose(("ann", "bob", None)),
            "interaction_type": choose((["click"], ["view", "click"], ["click", "view", "click"])),
            "position": choose(range(4)),
            "session_id": choose((*SESSIONS, None)),
            "retriever_id": choose((*RETRIEVERS, RETRIEVERS[0], None)),
            "feature_uri": choose((*FEATURES, None)),
        }
        if choose(range(60)) == 0:
            facts["metadata"] = LONG
        elif self._tokens and choose(range(3)) == 0:
            facts["metadata"] = {"interleaving": self._tokens[facts["execution"], facts["feature"]]}
        return facts

    def _moment_ms(self) -> int:
        """A time on a grid of windows, or just off it."""
        return _EPOCH_MS + WINDOW_MS * self._random.randrange(5) + self._random.choice((-1, 0, 0, 1, WINDOW_MS // 2))

    def _live(self, **more: Any) -> Raw:
        interaction = click(**{**self._facts(), **more})
        minted = derive_foreign_id("minted", 0, self._random.randrange(2**62), self._random.randrange(2**40))
        headers = encode_headers("default")
        return Raw(partition_key("default", interaction), encode_value(interaction, minted), headers)

    def _timed(self) -> Raw:
        return self._live(occurred_at=from_epoch_ms(self._moment_ms()))

    def _keyed(self) -> Raw:
        token = f"k{self._random.randrange(5)}"
        raw = self._live(execution=None)
        return Raw(f"default:{token}".encode(), raw.value, encode_headers("default", idempotency_key=token))

    def _foreign(self) -> Raw:
        facts = self._facts()
        if self._random.random() < 0.5:
            facts["interaction_id"] = self._random.choice(self._ids)
            facts["execution"] = f"e{self._ids.index(facts['interaction_id']) % 8}"
        if self._random.random() < 0.5:
            facts["occurred_at"] = iso_ms(from_epoch_ms(self._moment_ms()))
        return Raw(f"default:{facts['execution']}".encode(), as_json(**facts), [])

    def _imported(self) -> Raw:
        derived = self._random.choice(self._ids)
        facts = {**self._facts(), "execution": f"e{self._ids.index(derived) % 8}"}
        interaction = click(**facts, occurred_at=from_epoch_ms(self._moment_ms()))
        headers = encode_headers("default", derived_id=True)
        return Raw(partition_key("default", interaction), encode_value(interaction, derived), headers)

    def _replayed(self) -> Raw:
        raw = self._live()
        derived = json.loads(raw.value or b"")["interaction_id"]
        assert derived
        return raw._replace(headers=encode_headers("default", derived_id=True, origin_ms=self._moment_ms()))

    def _misplaced(self) -> Raw:
        """Any event, from a client that has another partitioner, or sends no key; sometimes it is right by chance."""
        kinds = (self._live, self._timed, self._keyed, self._foreign, self._imported, self._replayed)
        key, partition = self._random.choice((None, b"another key")), self._random.randrange(PARTITIONS)
        return self._random.choice(kinds)()._replace(key=key, partition=partition)

    def _bad(self) -> Raw:
        return Raw(b"default:e%d" % self._random.randrange(8), self._random.choice(_BAD), [("app", b"\xff")])
