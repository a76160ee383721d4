"""Text for terminals and logs: untrusted characters are escaped, and secrets masked."""

import re
from collections.abc import Iterable
from unicodedata import category

_JOINERS = "\u200c\u200d"
"""Zero-width joiners. Persian and emoji need them, and they neither reorder nor hide text."""

_SECRETS = re.compile(
    r"""(?<=://)[^\s/@'"]*:[^\s/@'"]*(?=@)"""  # user and password of a URL
    r"""|(?<=\btk_[0-9a-f]{8}_)[\w-]+|(?<=\broot_)[\w-]{43}|(?<=\btb_)[\w.-]+|(?<=Bearer )[^\s'",;]+"""
)
"""Patterns of secrets in any text: credentials in URLs, API keys, page tokens."""
MASK = "***"
MIN_SECRET_CHARACTERS = 8
"""Minimum length of a registered secret: shorter ones occur in ordinary words."""

_hidden: list[str] = []
"""Registered secrets. Append-only, because other threads read the list."""


def printable(text: str, keep: str = "") -> str:
    """Escape characters that control a terminal, start a line, or reorder or hide text, as Python escapes them.

    These are the Unicode categories C*, Zl and Zp: control, format, private-use, unassigned and surrogate characters
    and line separators. Characters in `keep` stay unchanged.
    """
    if text.isprintable():
        return text
    return "".join(each if _is_harmless(each) or each in keep else _escaped(each) for each in text)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def register_secrets(secrets: Iterable[str]) -> None:
    """Mask these texts in every later log line of this process."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARACTERS and secret not in _hidden:
            _hidden.append(secret)


def mask_secrets(text: str) -> str:
    """Return the text with its secrets replaced by `MASK`."""
    for secret in _hidden:
        text = text.replace(secret, MASK)
    # Most lines of an API are of its access log. They have none of these marks, and the search takes 9 us.
    if "://" in text or "tk_" in text or "root_" in text or "tb_" in text or "Bearer " in text:
        return _SECRETS.sub(MASK, text)
    return text
