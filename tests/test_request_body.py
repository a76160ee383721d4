"""Batches are split by compiled code as a JSON parser splits them, or not at all."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.boundary import split_batch

texts = st.text(max_size=8) | st.sampled_from(['"', "\\", '\\"', "]}", "{[", "é\U0001f600", '\\\\"'])
values: st.SearchStrategy[Any] = st.recursive(
    texts | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=4)
spaces = st.sampled_from(["", " ", "\n\t\r "])


class _Batch(msgspec.Struct):
    interactions: list[msgspec.Raw]


def split(body: bytes, most: int = 100) -> list[bytes] | None:
    spans = split_batch(body, most)
    return None if spans is None else [body[start:end] for start, end in spans.tolist()]


@given(st.lists(objects, min_size=1, max_size=5), spaces, st.booleans(), st.booleans())
def test_a_batch_is_split_as_by_a_parser(given_objects: list[Any], space: str, escaped: bool, indented: bool) -> None:
    values = [
        json.dumps(each, ensure_ascii=escaped, indent=1 if indented else None).encode("utf-8", "surrogatepass")
        for each in given_objects
    ]
    between = space.encode()
    items = (between + b"," + between).join(values)
    body = between.join([b"", b"{", b'"interactions"', b":", b"[", items, b"]", b"}", b""])
    assert split(body) == values == [bytes(each) for each in msgspec.json.decode(body, type=_Batch).interactions]
    assert split(body, most=len(values) - 1) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"interactions":[{}],"interactions":[{}]}',
        b'{"interactions":[{}],"other":1}',
        b'{"other":1,"interactions":[{}]}',
        b'{"interactions":[]}',
        b'{"interactions":[{} {}]}',
        b'{"interactions":[{},]}',
        b'{"interactions":[,{}]}',
        b'{"interactions":[1]}',
        b'{"interactions":[[]]}',
        b'{"interactions":[{}]',
        b'{"interactions":[{}]}}',
        b'{"interactions":[{"a":"]}',
        b'{"interactions":[{"a":"\\',
        b'{"interactions"',
        b'{"int\\u0065ractions":[{}]}',
        b"[{}]",
        b"",
    ],
)
def test_a_body_of_another_shape_is_left_to_the_parser(body: bytes) -> None:
    assert split(body) is None


@given(st.lists(objects, min_size=1, max_size=3), st.data())
def test_a_damaged_body_is_split_only_into_malformed_objects(given_objects: list[Any], data: st.DataObject) -> None:
    """If all objects of a body that is split are well-formed, the body is well-formed and has these objects."""
    body = bytearray(json.dumps({"interactions": given_objects}, separators=(",", ":")).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'{}[],:"\\ a1'))
    found = split(bytes(body))
    if found is not None and all(is_json(each) for each in found):
        assert json.loads(body) == {"interactions": [json.loads(each) for each in found]}


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
