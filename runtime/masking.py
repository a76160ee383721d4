"""Masking of secrets in text that is logged."""

import re
from collections.abc import Iterable

_SECRETS = re.compile(
    r"""(?<=://)[^\s/@'"]*:[^\s/@'"]*(?=@)"""  # user and password of a URL
    r"""|(?<=\btk_[0-9a-f]{8}_)[\w-]+|(?<=\broot_)[\w-]{43}|(?<=\btb_)[\w.-]+|(?<=Bearer )[^\s'",;]+"""
)
"""Texts that are recognised as secret wherever they stand: credentials in addresses, API keys, page tokens."""
MASK = "***"
MIN_SECRET_CHARACTERS = 8
"""Shorter ones are parts of ordinary words."""

_hidden: list[str] = []
"""Only ever appended to: other threads may be reading it."""


def register_secrets(secrets: Iterable[str]) -> None:
    """Mask these texts in every further line of this process."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET_CHARACTERS and secret not in _hidden:
            _hidden.append(secret)


def mask_secrets(text: str) -> str:
    """Return the text without its secrets."""
    for secret in _hidden:
        text = text.replace(secret, MASK)
    return _SECRETS.sub(MASK, text)
