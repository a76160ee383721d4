"""Masking of secrets in text that is logged."""

import re
from collections.abc import Iterable

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


def register_secrets(secrets: Iterable[str]) -> None:
    """Mask these texts in every later log line of this process."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARACTERS and secret not in _hidden:
            _hidden.append(secret)


def mask_secrets(text: str) -> str:
    """Return the text with its secrets replaced by `MASK`."""
    for secret in _hidden:
        text = text.replace(secret, MASK)
    return _SECRETS.sub(MASK, text)
