"""How a statement must be run, told from its text without parsing SQL: quotes and comments are stepped over,
and the first word that decides wins."""

import re
from typing import Literal, NamedTuple

from deploy.embedded.clickhouse_http.errors import SYNTAX_ERROR, error

StatementKind = Literal["stream_out", "stream_in", "at_once"]

# A stream is the concatenation of independently formatted blocks, so only formats without a frame around the
# whole result can be streamed. The others are formatted at once, under a bound on their size.
STREAMABLE_OUTPUT = frozenset(
    {
        "native",
        "rowbinary",
        "tabseparated",
        "tsv",
        "tabseparatedraw",
        "tsvraw",
        "csv",
        "jsoneachrow",
        "jsoncompacteachrow",
        "lineasstring",
    }
)
DEFAULT_FORMAT = "TabSeparated"

# Possessive: a text of many comments is read once, not once for every way to split it. What stands inside a possessive
# group takes nothing before it fails: until Python 3.11.5 such a group keeps what it took.
_COMMENT = r"(?=--)--[^\n]*+|(?=/\*)/\*[\s\S]*?(?:\*/|\Z)"
_SKIP = rf"""'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+"|`(?:[^`\\]|\\.)*+`|{_COMMENT}"""
_FIRST_WORD = re.compile(rf"(?:\s|;|\(|{_COMMENT})*+([A-Za-z]+)")
_FORMAT = re.compile(rf"{_SKIP}|\bFORMAT\s+([A-Za-z]\w*)", re.DOTALL | re.IGNORECASE)
_AFTER_FORMAT = re.compile(r"\s*(?:SETTINGS\b.*)?;?\s*", re.DOTALL | re.IGNORECASE)
_INSERT_SOURCE = re.compile(
    rf"{_SKIP}|\b(?P<word>SELECT|WITH|VALUES|INFILE)\b|\bFORMAT\s+(?P<format>[A-Za-z]\w*)[ \t]*;?\r?\n?",
    re.DOTALL | re.IGNORECASE,
)
_SETTINGS = re.compile(rf"{_SKIP}|(?P<word>\bSETTINGS\b)", re.DOTALL | re.IGNORECASE)
_READING = frozenset({"select", "with", "show", "describe", "desc", "explain", "exists"})


class Statement(NamedTuple):
    """A statement ready to run; `data` is what stood after an INSERT's format clause in the same text."""

    kind: StatementKind
    sql: str
    format: str
    data: bytes = b""


def decode_sql(text: bytes) -> str:
    """A statement's text. Raises ClickHouseError when it is not UTF-8."""
    try:
        return text.decode().strip()
    except UnicodeDecodeError:
        raise error(SYNTAX_ERROR, "The query is not valid UTF-8") from None


def first_word(text: str) -> str:
    """The statement's first keyword, lower-case; empty when there is none."""
    found = _FIRST_WORD.match(text)
    return found.group(1).lower() if found else ""


def is_insert(head: bytes) -> bool:
    """Whether the statement that begins with `head` is an INSERT."""
    return first_word(head.decode(errors="replace")) == "insert"


def split_settings(insert: str) -> tuple[str, str]:
    """An INSERT's text without its format, cut before its SETTINGS clause, which may be empty."""
    for found in _SETTINGS.finditer(insert):
        if found.group("word"):
            return insert[: found.start()], insert[found.start() :]
    return insert, ""


def split_insert(head: bytes) -> Statement | None:
    """Cut an INSERT at its source of rows; None while `head` does not yet reach that far.

    An INSERT that brings its rows, in a format or as VALUES, is streamed in; INSERT ... SELECT runs at once.
    """
    # latin-1 keeps one character per byte, so positions in the text are positions in the bytes.
    for found in _INSERT_SOURCE.finditer(head.decode("latin-1")):
        if found.group("format"):
            if found.end() == len(head) and not head.endswith(b"\n"):
                return None  # the format's name may continue in the next chunk
            sql = decode_sql(head[: found.start()])
            return Statement("stream_in", sql, found.group("format"), head[found.end() :])
        if found.group("word"):
            if found.group("word").upper() != "VALUES":
                return Statement("at_once", "", DEFAULT_FORMAT)
            sql = decode_sql(head[: found.start()])
            return Statement("stream_in", sql, "Values", head[found.end() :])
    return None


def plan(sql: str, default_format: str | None) -> Statement:
    """How to run a whole statement that is no streamed INSERT."""
    formats = [
        found.group(1)
        for found in _FORMAT.finditer(sql)
        if found.group(1) and _AFTER_FORMAT.fullmatch(sql, found.end())  # elsewhere it is a column's name
    ]
    output = formats[-1] if formats else default_format or DEFAULT_FORMAT
    streamed = first_word(sql) in {"select", "with"} and output.lower() in STREAMABLE_OUTPUT
    return Statement("stream_out" if streamed else "at_once", sql, output)


def is_reading(sql: str) -> bool:
    """Whether the statement only reads, so that it may be cancelled when its client has gone."""
    return first_word(sql) in _READING
