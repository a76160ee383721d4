"""Escaping of untrusted text for terminals and logs."""

from unicodedata import category

_JOINERS = "\u200c\u200d"
"""Zero-width joiners. Persian and emoji need them, and they neither reorder nor hide text."""


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
