"""Target policies as data: the probability with which a policy shows a document for a query at a position."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.errors import TallyError

Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MAX_ENTRIES = 1_000_000
MAX_DOCUMENTS = 1_000_000_000
MAX_POSITION = 2**31 - 1
MAX_TEXT_BYTES = 64 * 1024
"""Largest query or document of an entry in bytes."""
SUM_TOLERANCE = 1e-6
"""Largest distance from 1 of a sum of probabilities."""

_KEYS = {"query", "document", "position", "probability"}
_UNIFORM = re.compile(r"uniform(?::([0-9]{1,10}))?")
_WHITE_SPACE = re.compile(r"[\t\n\f\r ]+")


class PolicyError(TallyError):
    """Target policy that is not valid. The message names the entry, or the query."""

    exit_code = 2


class UniformPolicy(NamedTuple):
    """Policy that shows each of `documents` documents with the same probability, at every position.

    None: those that the log shows for the query.
    """

    documents: int | None = None


class PolicyTable(NamedTuple):
    """Policy as a table: arrays with one entry each. Queries and documents are the first 8 bytes of their MD5."""

    has_queries: bool
    """Without queries, the entries hold for every query."""
    has_positions: bool
    """Without positions, the entries hold for every position."""
    query: Hashes
    document: Hashes
    position: Integers
    probability: Floats


TargetPolicy = UniformPolicy | PolicyTable


def text_hash(text: str) -> int:
    """Return ClickHouse's halfMD5 of a text: the first 8 bytes of its MD5, big-endian."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "big")


def normalized_query(text: str) -> str:
    """Return the text of a query as `schemas.analytics.base.query_text` has it."""
    return _WHITE_SPACE.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip(" ")


def parse_uniform(text: str) -> UniformPolicy | None:
    """Parse `uniform` or `uniform:N`; None for another text. Raises PolicyError for N = 0."""
    found = _UNIFORM.fullmatch(text)
    if found is None:
        return None
    count = None if found[1] is None else int(found[1])
    if count is not None and not 1 <= count <= MAX_DOCUMENTS:
        raise PolicyError(f"{text}: the number of documents must be from 1 to {MAX_DOCUMENTS:,}")
    return UniformPolicy(count)


def policy_table(entries: Iterable[Any]) -> PolicyTable:
    """Return the policy of entries {query?, document, position?, probability}.

    Either all entries have a query, or none has; positions alike. The probabilities sum to 1 for each query and
    position. Raises PolicyError.
    """
    seen: dict[tuple[str, int, str], float] = {}
    sums: dict[tuple[str, int], float] = {}
    keys: set[str] | None = None
    for number, entry in enumerate(entries, 1):
        if number > MAX_ENTRIES:
            raise PolicyError(f"the policy has more than {MAX_ENTRIES:,} entries")
        query, position, document, probability = _checked(number, entry)
        keys = keys or set(entry)
        if set(entry) != keys:
            raise PolicyError(f"entry {number} has other keys than the first one: {', '.join(sorted(keys))}")
        if (query, position, document) in seen:
            raise PolicyError(f"entry {number} repeats document {document[:60]!r}{_place(keys, query, position)}")
        seen[query, position, document] = probability
        sums[query, position] = sums.get((query, position), 0.0) + probability
    if not seen or keys is None:
        raise PolicyError("the policy has no entries")
    for (query, position), total in sums.items():
        if abs(total - 1) > SUM_TOLERANCE:
            raise PolicyError(f"the probabilities{_place(keys, query, position)} sum to {total:.6g}, not 1")
    hashes = [(text_hash(query), text_hash(document)) for query, _, document in seen]
    pairs = np.array(hashes, np.uint64)
    return PolicyTable(
        has_queries="query" in keys,
        has_positions="position" in keys,
        query=pairs[:, 0],
        document=pairs[:, 1],
        position=np.array([position for _, position, _ in seen], np.int64),
        probability=np.array([*seen.values()]),
    )


def _checked(number: int, entry: Any) -> tuple[str, int, str, float]:
    """Return query, position, document and probability of an entry; absent ones are "" and 0. Raises PolicyError."""
    if not isinstance(entry, dict) or not {"document", "probability"} <= set(entry) <= _KEYS:
        raise PolicyError(f"entry {number} is not an object with document, probability and, if wanted, query, position")
    query, document = entry.get("query", ""), entry["document"]
    position, probability = entry.get("position", 0), entry["probability"]
    for name, text in (("query", query), ("document", document)):
        if not isinstance(text, str) or not _is_short(text):
            raise PolicyError(f"entry {number}: {name} is not a text of at most {MAX_TEXT_BYTES:,} bytes of UTF-8")
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position <= MAX_POSITION:
        raise PolicyError(f"entry {number}: position is not an integer from 0 to {MAX_POSITION}")
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise PolicyError(f"entry {number}: probability is not a number from 0 to 1")
    return normalized_query(query), position, document, float(probability)


def _is_short(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_TEXT_BYTES
    except UnicodeEncodeError:  # a lone surrogate, which no stored text has
        return False


def _place(keys: set[str], query: str, position: int) -> str:
    """Return the place of an entry in words, such as " for query 'shoes' at position 0"."""
    of_query = f" for query {query[:60]!r}" if "query" in keys else ""
    return of_query + (f" at position {position}" if "position" in keys else "")
