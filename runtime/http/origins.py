"""Origins of web pages (RFC 6454) in the spelling of browsers."""

import ipaddress
import re
from urllib.parse import urlsplit

import idna

_DEFAULT_PORTS = {"http": 80, "https": 443}
_APP_SCHEMES = ("capacitor", "chrome-extension", "ionic", "moz-extension", "safari-web-extension", "tauri")
"""Schemes of pages inside apps and browser extensions."""
_ASCII_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_BLANK = re.compile(r"[\s\x00-\x20]")
_MAX_CHARACTERS = 512


def serialized_origin(text: str) -> str:
    """Normalize an origin as browsers send it: lower case, ASCII, no default port, trailing dot or slash.

    Raises ValueError, with a message for the author of the text, when no browser sends such an origin.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"an origin has at most {_MAX_CHARACTERS} characters")
    try:
        parts = urlsplit("" if _BLANK.search(text) else text)  # urlsplit drops some blanks silently
        port = parts.port
    except ValueError:
        raise ValueError(f"{text!r} is not an origin: write https://host or https://host:port") from None
    if parts.scheme not in (*_DEFAULT_PORTS, *_APP_SCHEMES):
        schemes = ", ".join((*_DEFAULT_PORTS, *_APP_SCHEMES))
        raise ValueError(f"{text!r} is not an origin: it must begin with one of {schemes} and ://")
    if parts.path not in ("", "/") or "?" in text or "#" in text or "@" in parts.netloc:
        raise ValueError(f"{text!r} is not an origin: it must end after host and port, without path, query or user")
    host = _host(parts.hostname or "", text)
    return f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}")


def _host(host: str, text: str) -> str:
    if ":" in host:
        try:
            return f"[{ipaddress.IPv6Address(host.replace('%', ' '))}]"  # an origin has no zone id
        except ValueError:
            raise ValueError(f"{text!r} is not an origin: [{host}] is not an IPv6 address") from None
    try:
        # Browsers map names by UTS 46, and also send names that IDNA 2008 refuses, such as emoji.
        labels = idna.uts46_remap(host, std3_rules=False).removesuffix(".").split(".")
        found = ".".join(each if each.isascii() else f"xn--{each.encode('punycode').decode()}" for each in labels)
    except (UnicodeError, idna.IDNAError):
        found = ""
    if not _ASCII_HOST.fullmatch(found):
        raise ValueError(f"{text!r} is not an origin: {host!r} is not a host name")
    return found
