"""Request bodies: the same JSON however it is compressed, marked and labelled; anything else is a clear error."""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.http.content_encoding import MAX_MEMBERS, codings_of, decompress
from runtime.http.errors import ApiError
from tests.http_lab import EVENT, PATH, assert_error

LIMIT = 100_000
TEXT = json.dumps(EVENT).encode()
BODIES = {PATH: TEXT, f"{PATH}/batch": b'{"interactions":[%b]}' % TEXT, f"{PATH}/list": b"{}"}


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda body: gzip.compress(body, 0),
    "deflate": zlib.compress,
}


def refused(body: bytes, *codings: str, limit: int = LIMIT) -> int:
    """The status that a body is refused with."""
    with pytest.raises(ApiError) as raised:
        decompress(body, codings, limit)
    return raised.value.status


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.lists(st.sampled_from(sorted(PACKERS)), max_size=3)
)
def test_compressed_bodies_are_decompressed(parts: list[bytes], codings: list[str]) -> None:
    """Law: gzip members are concatenated, codings are nested, and all bytes are read."""
    body = b"".join(map(gzip.compress, parts))
    for coding in codings:
        body = PACKERS[coding](body)
    assert decompress(body, ["gzip", *codings], LIMIT) == b"".join(parts)


@given(st.binary(max_size=3_000), st.data())
def test_a_truncated_or_extended_body_is_refused(plain: bytes, data: st.DataObject) -> None:
    for coding, packed in (("gzip", gzip.compress(plain)), ("deflate", zlib.compress(plain))):
        cut = data.draw(st.integers(0, len(packed) - 1))
        assert refused(packed[:cut], coding) == 400
        assert refused(packed + data.draw(st.binary(min_size=1, max_size=9)), coding) == 400
    assert refused(raw_deflate(plain) + b"\0", "deflate") == 400
    assert decompress(raw_deflate(plain), ["deflate"], LIMIT) == plain


def test_members_and_bytes_are_bounded() -> None:
    """All members together, and each coding."""
    member = gzip.compress(b"x" * 400)
    assert decompress(member * 250, ["gzip"], LIMIT) == b"x" * LIMIT
    assert refused(member * 251, "gzip") == 413
    assert refused(gzip.compress(b"") * (MAX_MEMBERS + 1), "gzip") == 400
    assert decompress(gzip.compress(b"") * MAX_MEMBERS, ["gzip"], LIMIT) == b""
    bomb = gzip.compress(gzip.compress(b"\0" * 50_000_000))
    assert refused(bomb, "gzip", "gzip") == 413
    assert refused(bomb, "gzip", "gzip", limit=1_000) == 413


def test_content_encoding_is_a_list() -> None:
    for headers, codings in (
        ([], []),
        (["identity"], []),
        (["gzip, identity"], ["gzip"]),
        (["GZIP ,", " Deflate"], ["gzip", "deflate"]),
        (["x-gzip"], ["x-gzip"]),
    ):
        assert codings_of(headers) == codings
    for headers in (["br"], ["gzip, br"], ["gzip;q=1"], ["gzip"] * 4, ["*"], ["identity gzip"]):
        with pytest.raises(ApiError) as raised:
            codings_of(headers)
        assert (raised.value.status, raised.value.headers) == (415, {"Accept-Encoding": "gzip, deflate"})


@pytest.mark.parametrize("path", BODIES)
async def test_every_endpoint_reads_every_spelling_of_a_body(shared_api: httpx.AsyncClient, path: str) -> None:
    plain = BODIES[path]
    half = len(plain) // 2
    for content, encoding in (
        (plain, None),
        (codecs.BOM_UTF8 + plain, None),
        (gzip.compress(plain[:half]) + gzip.compress(plain[half:]), "gzip, identity"),
        (gzip.compress(codecs.BOM_UTF8 + plain), "X-GZip"),
        (zlib.compress(plain), "deflate"),
        (raw_deflate(plain), "deflate"),
        (zlib.compress(gzip.compress(plain)), "gzip, deflate"),
    ):
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        answer = await shared_api.post(path, content=content, headers=headers)
        assert answer.status_code == 200, (content, answer.text)
        assert answer.json().get("failed", 0) == 0
    for kind in ("application/json", 'Application/JSON; Charset="UTF-8"', "text/plain;charset=utf8", "", "a/b; c=d"):
        assert (await shared_api.post(path, content=plain, headers={"Content-Type": kind})).status_code == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
async def test_another_unicode_encoding_is_named(shared_api: httpx.AsyncClient, path: str, encoding: str) -> None:
    for plain in (BODIES[path], b" " + BODIES[path]):
        answer = await shared_api.post(path, content=plain.decode().encode(encoding))
        error = assert_error(answer, 400, "BadRequestError")
        assert "UTF-16 or UTF-32" in error["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_invalid_utf_8_is_a_bad_request(shared_api: httpx.AsyncClient, path: str) -> None:
    body = BODIES[path][:-1] + ',"ü":1}'.encode("latin-1")
    error = assert_error(await shared_api.post(path, content=body), 400, "BadRequestError")
    assert "UTF-8" in error["message"] or "utf-8" in error["message"]


async def test_a_byte_order_mark_is_ignored_only_at_the_start(shared_api: httpx.AsyncClient) -> None:
    for content in (TEXT + codecs.BOM_UTF8, codecs.BOM_UTF8 * 3 + TEXT, codecs.BOM_UTF8):
        assert_error(await shared_api.post(PATH, content=content), 400, "BadRequestError")
