"""SessionCookies of viewers: the API key of a viewer, encrypted in a cookie. The console itself keeps nothing."""

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import NamedTuple

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from starlette.requests import Request

MAX_PORT_DIGITS = 5

COOKIE = "tally_session"


def cookie_of(request: Request) -> str:
    """Return the name of the session's cookie, with the port of the address.

    Browsers send a cookie to every port of a host, so consoles on one host would end each other's sessions.
    """
    _, colon, port = request.headers.get("host", "").rpartition(":")
    return (
        f"{COOKIE}_{port}" if colon and port.isascii() and port.isdigit() and len(port) <= MAX_PORT_DIGITS else COOKIE
    )


class ViewerSession(NamedTuple):
    """Session of a viewer: the API key, and its first namespace."""

    key: str
    namespace: str


class SessionCookies:
    """Encryption of session cookies (Fernet: AES-128-CBC with HMAC-SHA256, and the time of its making)."""

    def __init__(self, given: Sequence[str], life_ms: int) -> None:
        """Use the given secrets, the first one to encrypt; without any, a random one."""
        self.life_s = life_ms // 1000
        self._fernet = MultiFernet([Fernet(_key(each)) for each in given or (secrets.token_hex(32),)])

    def seal(self, session: ViewerSession) -> str:
        """Return the cookie of a session."""
        return self._fernet.encrypt(json.dumps(session).encode()).decode()

    def open(self, cookie: str | None) -> ViewerSession | None:
        """Return the session in a cookie; None without one, or when it is forged or too old."""
        if not cookie:
            return None
        try:
            content = self._fernet.decrypt(cookie.encode(errors="replace"), ttl=self.life_s)
        except InvalidToken:
            return None
        return ViewerSession(*json.loads(content))


def _key(secret: str) -> bytes:
    """Derive a key of 32 bytes from a secret of any length."""
    return base64.urlsafe_b64encode(hashlib.sha256(b"tally console session " + secret.encode()).digest())
