"""API keys: how one is made, what is kept of it, and the tokens that it signs for pages.

A key is `tk_`, eight characters that name it, `_` and 256 random bits. Kept is the SHA-256 of the whole: with that
much chance in it a slow hash adds nothing. A page's token is a claim about namespace, origin and times, signed
(HMAC-SHA256, RFC 2104) with that hash: whoever has the key can make one without asking, and it dies with the key.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Literal, NamedTuple, Self, get_args

from runtime.http.origins import serialized_origin

Scope = Literal["write", "read", "delete", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""admin is not all of them: it is for outcomes of records that belong to no namespace."""

KEY_PREFIX = "tk_"
TOKEN_PREFIX = "tb_"  # noqa: S105  (no secret)
ROOT = "root"
"""Names the key of the settings."""
MAX_TOKEN_BYTES = 2_048
MAX_TOKEN_LIFE_S = 86_400
TOKEN_CLOCK_SKEW_S = 60
"""How far the clock of a backend that signs tokens may be ahead of the API's."""


class ApiKey(NamedTuple):
    """A stored API key. `hashed` is 32 bytes; `rate_per_s` is 0 for the setting's."""

    key_id: str
    hashed: bytes
    scopes: tuple[Scope, ...]
    namespaces: tuple[str, ...]
    rate_per_s: int = 0

    def is_of(self, key: str) -> bool:
        """Whether this is kept of `key`; takes the same time wherever they differ."""
        return hmac.compare_digest(hash_of(key), self.hashed)


def new_key() -> tuple[str, str]:
    """A key's name, and the key."""
    key_id = secrets.token_hex(4)
    return key_id, f"{KEY_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def key_id_of(key: str) -> str:
    """The name in a key; that of the settings for one of another form."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and key.startswith(KEY_PREFIX) else ROOT


def hash_of(key: str) -> bytes:
    """The hash that is stored of a key."""
    return hashlib.sha256(key.encode(errors="replace")).digest()


class PageToken(NamedTuple):
    """Right of a page to write into one namespace, from one origin, between two times (seconds since 1970)."""

    key_id: str
    namespace: str
    origin: str
    issued_s: int
    expires_s: int

    def signed(self, hashed: bytes) -> str:
        """The token, signed with what is kept of its key."""
        body = _encode(json.dumps(list(self), ensure_ascii=False).encode())
        return f"{TOKEN_PREFIX}{body}.{_encode(_signature(body, hashed))}"

    @classmethod
    def until(cls, key_id: str, namespace: str, origin: str, life_s: int) -> Self:
        """The page token of an origin, valid for this many seconds. Raises ValueError when it is no origin."""
        now_s = int(time.time())
        return cls(key_id, namespace, serialized_origin(origin), now_s, now_s + life_s)

    @classmethod
    def read(cls, token: str) -> tuple[Self, str] | None:
        """A token's content and its signature, not checked yet; None for malformed tokens."""
        body, _, signature = token[len(TOKEN_PREFIX) :].partition(".")
        if not token.startswith(TOKEN_PREFIX) or len(token) > MAX_TOKEN_BYTES:
            return None
        try:
            key_id, namespace, origin, *times = json.loads(_decode(body))
        except (ValueError, TypeError, RecursionError):
            return None
        if not all(isinstance(each, str) for each in (key_id, namespace, origin)):
            return None
        if len(times) != 2 or not all(type(each) is int for each in times):
            return None
        return cls(key_id, namespace, origin, *times), signature

    def is_signed(self, token: str, signature: str, hashed: bytes) -> bool:
        """Whether its key has signed it."""
        body = token[len(TOKEN_PREFIX) :].partition(".")[0]
        wanted = _encode(_signature(body, hashed))
        return hmac.compare_digest(wanted.encode(), signature.encode(errors="replace"))

    def is_current(self) -> bool:
        """Whether its time has begun, is not up, and is no longer than any token's may be, whoever has signed it."""
        now_s = time.time()
        has_begun = self.issued_s <= now_s + TOKEN_CLOCK_SKEW_S
        return has_begun and now_s < self.expires_s <= self.issued_s + MAX_TOKEN_LIFE_S

    def is_for(self, origin: str) -> bool:
        """Whether it is for pages of an origin, however either is spelled."""
        try:
            return serialized_origin(self.origin) == serialized_origin(origin)
        except ValueError:
            return False


def _signature(body: str, hashed: bytes) -> bytes:
    return hmac.digest(hashed, b"tally page token " + body.encode(errors="replace"), "sha256")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
