"""Batches are split by compiled code as a JSON parser splits them, or not at all."""

import json
from typing import Any

import msgspec
from hypothesis import example, given
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


@given(st.binary(max_size=40) | st.text('{}[],:"\\ interactons', max_size=60).map(str.encode))
@example(b'{"interactions":[{}],"interactions":[{}]}')
@example(b'{"interactions":[]}')
@example(b'{"interactions":[{} {}]}')
@example(b'{"interactions":[{},]}')
@example(b'{"interactions":[1]}')
@example(b'{"interactions":[[]]}')
@example(b'{"interactions":[{}]')
@example(b'{"interactions":[{}]}}')
@example(b'{"interactions":[{"a":"]}')
@example(b'{"interactions":[{"a":"\\')
@example(b'{"interactions"')
@example(b"")
def test_any_other_body_is_left_to_the_parser(body: bytes) -> None:
    """A body that is split has well-formed items only if it is well-formed."""
    found = split(body)
    if found is None:
        return
    try:
        items = [json.loads(each) for each in found]
    except ValueError:
        return
    assert json.loads(body) == {"interactions": items}
