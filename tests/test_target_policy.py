"""Target policies as data, and their match with logged results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.policy_file import read_policy
from learning.policy_match import LoggedKeys, MatchedResults, match_policy
from learning.scope import Refusal
from learning.target_policy import (
    PolicyError,
    PolicyTable,
    UniformPolicy,
    normalized_query,
    parse_uniform,
    policy_table,
    text_hash,
)

Row = tuple[str, str, int]
"""Query, document and position."""


def keys_of(rows: list[Row]) -> LoggedKeys:
    query, document, position = zip(*rows, strict=True)
    queries, documents = (np.array([*map(text_hash, texts)], np.uint64) for texts in (query, document))
    return LoggedKeys(queries, documents, np.array(position, np.int64))


def match(policy: UniformPolicy | PolicyTable, rows: list[Row], most: int = 1_000) -> MatchedResults:
    return match_policy(policy, keys_of(rows), most)


def entry(document: str, probability: Any, **place: Any) -> dict[str, Any]:
    return {"document": document, "probability": probability, **place}


ROWS = [("shoes", "a", 0), ("shoes", "b", 1), ("hats", "a", 0), ("shoes", "c", 0)]


def test_uniform_policies() -> None:
    of_log = match(UniformPolicy(), ROWS)
    assert of_log.probability.tolist() == pytest.approx([1 / 3, 1 / 3, 1, 1 / 3])
    assert of_log.unseen_share == pytest.approx(1 - (2 / 3 + 1 / 3 + 1 + 2 / 3) / 4)
    of_five = match(UniformPolicy(5), ROWS)
    assert of_five.probability.tolist() == [0.2] * 4
    assert sorted(of_five.entries.probability) == [0.2] * 4
    with pytest.raises(Refusal, match="shows 3 documents for a query, and the policy uniform:2 has 2"):
        match(UniformPolicy(2), ROWS)


def test_a_table_without_places_holds_everywhere() -> None:
    found = match(policy_table([entry("a", 0.7), entry("z", 0.3)]), ROWS)
    assert found.probability.tolist() == [0.7, 0, 0.7, 0]
    assert found.kept.all()
    assert found.unseen_share == pytest.approx(1 - (0.7 + 0 + 0.7 + 0.7) / 4)


def test_results_at_places_that_the_policy_lacks_are_left_out() -> None:
    at_first = policy_table([entry("a", 0.5, query=" SHOES ", position=0), entry("b", 0.5, query="shoes", position=0)])
    found = match(at_first, ROWS)
    assert found.kept.tolist() == [True, False, False, True]
    assert found.probability.tolist() == [0.5, 0]
    assert found.unseen_share == pytest.approx(0.5)
    with pytest.raises(Refusal, match="no probabilities for any query and position"):
        match(at_first, [("shoes", "a", 7), ("socks", "a", 0)])


Names = st.sampled_from(["", "a", "b", "c", "d"])


@given(
    st.lists(st.tuples(Names, Names, st.integers(0, 3)), min_size=1, max_size=30),
    st.dictionaries(st.tuples(Names, st.integers(0, 3)), st.lists(Names, min_size=1, max_size=4, unique=True)),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60)
def test_matching_equals_dictionaries(
    rows: list[Row], places: dict[tuple[str, int], list[str]], has_query: bool, has_position: bool
) -> None:
    """Law: probability, left-out results and the entries of each context are those of a plain table."""
    table: dict[tuple[Any, Any], dict[str, float]] = {}
    for (query, position), documents in places.items():
        place = query if has_query else None, position if has_position else None
        table[place] = {document: 1 / len(documents) for document in documents}
    entries = [
        {
            **({} if query is None else {"query": query}),
            **({} if position is None else {"position": position}),
            **entry(document, probability),
        }
        for (query, position), documents in table.items()
        for document, probability in documents.items()
    ]
    if not entries:
        return
    policy = policy_table(entries)

    def documents_at(query: str, position: int) -> dict[str, float] | None:
        return table.get((query if has_query else None, position if has_position else None))

    kept = [row for row in rows if documents_at(row[0], row[2]) is not None]
    if not kept:
        with pytest.raises(Refusal):
            match(policy, rows)
        return
    found = match(policy, rows)
    assert [row for row, keep in zip(rows, found.kept, strict=True) if keep] == kept
    wanted = [(documents_at(query, position) or {}).get(document, 0) for query, document, position in kept]
    assert found.probability.tolist() == pytest.approx(wanted)
    shown: dict[int, Row] = dict(zip(found.item.tolist(), kept, strict=True))
    for context, (query, _, position) in zip(found.context.tolist(), kept, strict=True):
        own = found.entries.context == context
        logged = {document for asked, document, _ in kept if asked == query}
        expected = {name: share for name, share in (documents_at(query, position) or {}).items() if name in logged}
        listed = {
            shown[item][1]: share
            for item, share in zip(found.entries.item[own], found.entries.probability[own], strict=True)
        }
        assert listed == pytest.approx(expected)


def test_a_join_is_bounded() -> None:
    rows = [(str(query), "a", 0) for query in range(50)]
    policy = policy_table([entry("a", 1, position=position) for position in range(30)])
    with pytest.raises(Refusal, match="more than 1,000 probabilities"):
        match(policy, rows)
    assert match(policy, rows, most=1_500).probability.tolist() == [1] * 50


def test_hostile_texts_are_texts() -> None:
    texts = ["\u202eolleh", "a\x00b\x1f", "x" * 64 * 1024, "\uff26\uff35LL\t wide ", "'; DROP"]
    policy = policy_table([entry(text, 1, query=text) for text in texts])
    rows = [(normalized_query(text), text, 0) for text in texts]
    assert match(policy, rows).probability.tolist() == [1] * len(texts)
    assert normalized_query("\uff26\uff35LL\t\n wide ") == "full wide"


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "has no entries"),
        ([entry("a", 0.5, query="shoes")], "the probabilities for query 'shoes' sum to 0.5, not 1"),
        ([entry("a", 1, position=3), entry("b", 0.1, position=3)], "the probabilities at position 3 sum to 1.1"),
        ([entry("a", 0.5), entry("a", 0.5)], "entry 2 repeats document 'a'"),
        ([entry("a", 1, query="q"), entry("a", 1)], "entry 2 has other keys than the first one: document, probability"),
        ([entry("a", 1, feature="x")], "entry 1 is not an object with document, probability"),
        (["a"], "entry 1 is not an object"),
        ([entry("a", -0.5)], "entry 1: probability is not a number from 0 to 1"),
        ([entry("a", float("nan"))], "entry 1: probability is not a number"),
        ([entry("a", "1")], "entry 1: probability is not a number"),
        ([entry("a", 1, position=-1)], "entry 1: position is not an integer"),
        ([entry("a", 1, position=1.5)], "entry 1: position is not an integer"),
        ([entry("a", 1, position=True)], "entry 1: position is not an integer"),
        ([entry("\ud800", 1)], "entry 1: document is not a text of at most 65,536 bytes"),
        ([entry("a", 1, query="x" * 65_537)], "entry 1: query is not a text"),
    ],
)
def test_a_wrong_policy_names_its_entry(entries: list[Any], says: str) -> None:
    with pytest.raises(PolicyError) as wrong:
        policy_table(entries)
    assert says in str(wrong.value)


def test_uniform_is_parsed() -> None:
    assert (parse_uniform("uniform"), parse_uniform("uniform:80")) == (UniformPolicy(), UniformPolicy(80))
    assert [parse_uniform(text) for text in ("uniform:", "uniform:-1", "Uniform", "uniform:1.5", "uniform:٣")] == [
        None
    ] * 5
    for text in ("uniform:0", "uniform:9999999999"):
        with pytest.raises(PolicyError, match="number of documents"):
            parse_uniform(text)


def test_files_have_the_entries_of_their_rows(tmp_path: Path) -> None:
    entries = [entry("a", 0.25, query="q", position=1), entry("b", 0.75, query="q", position=1)]
    lines, parquet = tmp_path / "policy.jsonl", tmp_path / "policy.parquet"
    lines.write_text("\n\n".join(map(json.dumps, entries)))
    pq.write_table(pa.Table.from_pylist(entries), parquet)
    wanted = policy_table(entries)
    for path in (lines, parquet):
        found = read_policy(str(path))
        assert isinstance(found, PolicyTable)
        assert [np.asarray(each).tolist() for each in found] == [np.asarray(each).tolist() for each in wanted]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.jsonl", None, "is neither `uniform` nor `uniform:N`, nor a file that can be read: No such file"),
        ("policy.jsonl", b"{", "line 1 is not JSON"),
        ("policy.jsonl", b"\xff\xfe", "line 1 is not JSON"),
        ("policy.jsonl", b'{"document": "a", "probability": 1}\n' + b"x" * 2_000_000, "line 2 is longer than"),
        ("policy.parquet", b"PAR1", "is not Parquet"),
        ("policy.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PolicyError) as wrong:
        read_policy(str(path))
    assert says in str(wrong.value)
    assert str(path) in str(wrong.value)
