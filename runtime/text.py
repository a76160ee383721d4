"""Text that somebody else wrote, on its way to a terminal or a log."""

from unicodedata import category

_JOINERS = "\u200c\u200d"
"""Zero-width joiners: Persian and emoji need them, and they cannot reorder or hide anything."""


def printable(text: str, keep: str = "") -> str:
    """Escape characters that act on a terminal, start a line, or reorder or hide text, as Python would write them.

    These are control, format, private-use, unassigned and surrogate characters and line separators (Unicode's
    categories C*, Zl and Zp). Characters in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(each if _is_harmless(each) or each in keep else _escaped(each) for each in text)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
