"""The dedup key: one for one set of facts, and only for that."""

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumers.claims.owners import KnownOwner
from schemas.dedup import dedup_key, is_duplicate_of
from schemas.interaction import INTERACTION_TYPES

texts = st.text(" 019ab,é", max_size=4)
types = st.lists(st.sampled_from(INTERACTION_TYPES), min_size=1, max_size=4)
W = 300_000


@given(types, st.randoms())
def test_order_and_repeats_of_types_do_not_matter(names: list[str], source: Random) -> None:
    shuffled = names + names[:1]
    source.shuffle(shuffled)
    assert dedup_key("n", "e", "f", names) == dedup_key("n", "e", "f", shuffled)


facts = st.tuples(texts, texts.filter(bool), texts, types.map(lambda names: tuple(sorted(set(names)))))
keys_alone: st.SearchStrategy[tuple[Any, ...]] = st.tuples(
    texts, st.none(), st.just(""), st.just(()), texts.filter(bool)
)


@given(st.lists(facts | keys_alone, unique=True, min_size=2, max_size=30))
def test_different_facts_have_different_keys(named: list[Any]) -> None:
    assert len({dedup_key(*each) for each in named}) == len(named)


def test_the_key_never_changes() -> None:
    # Written down once: another value would forget every claim that is alive.
    named = bytes.fromhex("0cda914d719d7ecb99f33c1d66cab7ec")
    assert dedup_key("default", "exec-1", "doc-1", ["view", "click"]) == named


def test_the_window_excludes_its_far_end() -> None:
    owner = KnownOwner(offset=5, event_ms=1_000_000, append_ms=2_000_000, raw_id=b"", number=None)

    def repeats(offset: int, event_ms: int, append_ms: int) -> bool:
        return is_duplicate_of(KnownOwner(offset, event_ms, append_ms, b"", None), owner, W)

    assert repeats(6, 1_000_000 + W - 1, 2_000_000)
    assert repeats(6, 1_000_000 - W + 1, 2_000_000)
    assert not repeats(6, 1_000_000 + W, 2_000_000)
    assert not repeats(6, 1_000_000 - W, 2_000_000)
    assert repeats(6, 1_000_000, 2_000_000 + 2 * W - 1)
    assert not repeats(6, 1_000_000, 2_000_000 + 2 * W)
    assert not repeats(5, 1_000_000, 2_000_000)
    assert not repeats(4, 1_000_000, 2_000_000)
