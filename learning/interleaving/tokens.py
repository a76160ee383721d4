"""Signed tokens of interleaved results.

A token says which team a result belongs to, in which draft of which experiment. The caller sends it in
`metadata.interleaving` of the result's events. It is signed (HMAC-SHA256, RFC 2104, truncated to 128 bits) with a key
derived from the stored hash of the API key that requested the draft, so every API process and command can verify it,
and no state is kept. The signature covers namespace and document: a token is valid on events of its document alone.

    ti_<experiment>.<interleaving id>.<content>.<signature>
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from learning.estimators.interleaving import Credit, Team
from runtime.clickhouse import ClickHouse
from runtime.http.key_store import IssuedKey, KeyStore
from runtime.http.keys import ROOT, SCOPES, ApiKey, hash_of
from runtime.settings import Settings

TOKEN_PREFIX = "ti_"  # noqa: S105  (no secret)
TOKEN_KEY = "interleaving"  # noqa: S105  (no secret)
"""Key in the metadata of events that holds the token."""
SIGNATURE_BYTES = 16
MAX_NAME_BYTES = 128
"""Largest name of an experiment or of a ranking in bytes."""
MAX_TOKEN_BYTES = 2_048

InvalidReason = Literal["malformed", "unknown_key", "revoked_key", "signature"]
"""Why a token does not verify. malformed: it was cut, for example. signature: it was changed, or is on an event of
another document or namespace.
unknown_key: the key does not exist, or may not write into the namespace. revoked_key: the event was appended to the log
after the key was revoked."""


class DraftToken(NamedTuple):
    """Content of a token."""

    experiment: str
    interleaving_id: str
    key_id: str
    issued_ms: int
    """Time of the draft in ms since 1970."""
    position: int
    team: Credit
    first: Team
    """Team that the first coin named."""
    names: tuple[str, str]
    """Names of the rankings a and b."""

    def signed(self, secret: bytes, namespace: str, document: str) -> str:
        """Return the token as text, for a result and a namespace."""
        content = (self.key_id, self.issued_ms, self.position, self.team, self.first, self.names)
        body = f"{experiment_prefix(self.experiment)}{self.interleaving_id}.{_encode(msgspec.json.encode(content))}"
        return f"{body}.{_encode(_signature(secret, namespace, body, document))}"


class _Content(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    key_id: str
    issued_ms: int
    position: int
    team: Credit
    first: Team
    names: tuple[str, str]


class SigningKey(NamedTuple):
    """Key that may have signed tokens of a namespace."""

    secret: bytes
    revoked_ms: int | None
    """Append time in ms since 1970 from which its tokens are invalid."""


class TokenVerifier:
    """Verification of the tokens of one namespace."""

    def __init__(self, namespace: str, keys: Mapping[str, SigningKey]) -> None:
        self._namespace = namespace
        self._keys = keys

    def verify(self, token: str, document: str, appended_ms: int) -> DraftToken | InvalidReason:
        """Return the content of a token on an event of a document, appended to the log at a time, or why it is invalid.

        Comparison of signatures takes constant time.
        """
        found = read_token(token)
        if found is None:
            return "malformed"
        content, body, signature = found
        key = self._keys.get(content.key_id)
        if key is None:
            return "unknown_key"
        if not hmac.compare_digest(_signature(key.secret, self._namespace, body, document), signature):
            return "signature"
        if key.revoked_ms is not None and appended_ms >= key.revoked_ms:
            return "revoked_key"
        return content


def experiment_prefix(experiment: str) -> str:
    """Return the beginning of all tokens of an experiment, and of no other one."""
    return f"{TOKEN_PREFIX}{_encode(experiment.encode())}."


def signing_secret(key: ApiKey) -> bytes:
    """Return the secret that signs tokens, derived from the stored hash of an API key."""
    return hmac.digest(key.hashed, b"tally interleaving token", "sha256")


def read_token(token: str) -> tuple[DraftToken, str, bytes] | None:
    """Parse a token into its content, its signed text and its unchecked signature; None for a malformed token."""
    if len(token) > MAX_TOKEN_BYTES or not token.startswith(TOKEN_PREFIX) or not token.isascii():
        return None
    body, _, signature = token.rpartition(".")
    try:
        experiment, interleaving_id, encoded = body.removeprefix(TOKEN_PREFIX).split(".")
        content = msgspec.json.decode(_decode(encoded), type=_Content)
        name = _decode(experiment).decode()
        signed = _decode(signature)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        return None
    if len(signed) != SIGNATURE_BYTES:
        return None
    return DraftToken(name, interleaving_id, *msgspec.structs.astuple(content)), body, signed


async def token_verifier(settings: Settings, database: ClickHouse, namespace: str) -> TokenVerifier:
    """Return the verification of a namespace's tokens: by TALLY_API_KEY, and by all keys that may write there.

    A revoked key keeps its earlier tokens valid, so that changing keys does not change a result. Raises Unavailable.
    """
    issued = await KeyStore(database).issued_keys()
    if root := settings.api_key.get_secret_value():
        issued[ROOT] = IssuedKey(ApiKey(ROOT, hash_of(root), SCOPES, settings.api_namespaces), None)
    keys = {
        key_id: SigningKey(signing_secret(key), revoked_ms)
        for key_id, (key, revoked_ms) in issued.items()
        if "write" in key.scopes and namespace in key.namespaces
    }
    return TokenVerifier(namespace, keys)


def _signature(secret: bytes, namespace: str, body: str, document: str) -> bytes:
    signed = msgspec.json.encode((namespace, body, document))
    return hmac.digest(secret, signed, "sha256")[:SIGNATURE_BYTES]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
