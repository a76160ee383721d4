"""API keys, their stored hashes, and the page tokens that they sign.

A key is `tk_`, its id of eight characters, `_` and 256 random bits. Only its SHA-256 is stored: against that much
entropy a slow hash adds nothing. A page token states namespace, origin and times, and is signed (HMAC-SHA256, RFC 2104)
with that hash. So a holder of the key can make tokens without a request, and revoking the key revokes them.
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
"""Scopes of a key. admin includes no other scope: it is for API keys, and outcomes of records without a namespace."""

KEY_PREFIX = "tk_"
TOKEN_PREFIX = "tb_"  # noqa: S105  (no secret)
ROOT = "root"
"""Id of TALLY_API_KEY."""
MAX_TOKEN_BYTES = 2_048
MAX_TOKEN_LIFE_S = 86_400
TOKEN_CLOCK_SKEW_S = 60
"""Largest lead, in seconds, of the clock of a backend that signs tokens over the API's."""


class ApiKey(NamedTuple):
    """Stored API key. `hashed` is 32 bytes; `rate_per_s` is 0 for TALLY_RATE_LIMIT_PER_S."""

    key_id: str
    hashed: bytes
    scopes: tuple[Scope, ...]
    namespaces: tuple[str, ...]
    rate_per_s: int = 0
    name: str = ""
    """Name that tells people who uses the key; empty for TALLY_API_KEY."""

    def is_of(self, key: str) -> bool:
        """Return whether this is the stored form of `key`, in constant time."""
        return hmac.compare_digest(hash_of(key), self.hashed)


def new_key() -> tuple[str, str]:
    """Return a new key's id, and the key."""
    key_id = secrets.token_hex(4)
    return key_id, f"{KEY_PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def key_id_of(key: str) -> str:
    """Return the id in a key; ROOT for a key of another form."""
    key_id, separator, _ = key.removeprefix(KEY_PREFIX).partition("_")
    return key_id if separator and key.startswith(KEY_PREFIX) else ROOT


def hash_of(key: str) -> bytes:
    """Return the stored hash of a key."""
    return hashlib.sha256(key.encode(errors="replace")).digest()


class PageToken(NamedTuple):
    """Permission of pages of one origin to write into one namespace, between two times in seconds since 1970."""

    key_id: str
    namespace: str
    origin: str
    issued_s: int
    expires_s: int

    def signed(self, hashed: bytes) -> str:
        """Return the token as text, signed with its key's hash."""
        body = _encode(json.dumps(list(self), ensure_ascii=False).encode())
        return f"{TOKEN_PREFIX}{body}.{_encode(_signature(body, hashed))}"

    @classmethod
    def until(cls, key_id: str, namespace: str, origin: str, life_s: int) -> Self:
        """Return a page token that is valid for `life_s` seconds. Raises ValueError for an invalid origin."""
        now_s = int(time.time())
        return cls(key_id, namespace, serialized_origin(origin), now_s, now_s + life_s)

    @classmethod
    def read(cls, token: str) -> tuple[Self, str] | None:
        """Parse a token into its content and unchecked signature; None for a malformed token."""
        body, _, signature = token[len(TOKEN_PREFIX) :].partition(".")
        if not token.startswith(TOKEN_PREFIX) or len(token) > MAX_TOKEN_BYTES:
            return None
        try:
            key_id, namespace, origin, issued_s, expires_s = json.loads(_decode(body))
        except (ValueError, TypeError, RecursionError):
            return None
        if not all(isinstance(each, str) for each in (key_id, namespace, origin)):
            return None
        if not all(type(each) is int for each in (issued_s, expires_s)):
            return None
        return cls(key_id, namespace, origin, issued_s, expires_s), signature

    def is_signed(self, token: str, signature: str, hashed: bytes) -> bool:
        """Return whether the token's key has signed it."""
        body = token[len(TOKEN_PREFIX) :].partition(".")[0]
        wanted = _encode(_signature(body, hashed))
        return hmac.compare_digest(wanted.encode(), signature.encode(errors="replace"))

    def is_current(self) -> bool:
        """Return whether the token is valid now, and not longer than MAX_TOKEN_LIFE_S."""
        now_s = time.time()
        has_begun = self.issued_s <= now_s + TOKEN_CLOCK_SKEW_S
        return has_begun and now_s < self.expires_s <= self.issued_s + MAX_TOKEN_LIFE_S

    def is_for(self, origin: str) -> bool:
        """Return whether the token is for an origin, in any spelling."""
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
