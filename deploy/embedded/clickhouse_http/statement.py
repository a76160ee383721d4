"""Mode of running a statement, derived from its text without an SQL parser: quotes and comments are skipped, and the
first deciding keyword counts."""

import re
from typing import Literal, NamedTuple

from deploy.embedded.clickhouse_http.errors import ErrorCode, error

StatementKind = Literal["stream_out", "pipe_out", "stream_in", "at_once"]

# A stream is the concatenation of independently formatted blocks, so only formats without a frame around the whole
# result can be streamed. PIPED_OUTPUT is written by the engine into a pipe. Results in other formats are formatted at
# once, and bounded in size.
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
PIPED_OUTPUT = frozenset({"parquet", "arrowstream"})
DEFAULT_FORMAT = "TabSeparated"

# Possessive quantifiers: a text of many comments is scanned once, without backtracking. The content of a possessive
# group consumes nothing before it fails, because until Python 3.11.5 such a group does not restore consumed text.
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
    """Statement ready to run; `data` is the text after an INSERT's format clause."""

    kind: StatementKind
    sql: str
    format: str
    data: bytes = b""
    format_at: int = -1
    """Position of the FORMAT clause in `sql`; -1 without one."""

    def into_file(self, path: str) -> str:
        """Return the SELECT with its FORMAT clause that writes its result to a file."""
        return f"{self.sql[: self.format_at]}INTO OUTFILE '{path}' TRUNCATE {self.sql[self.format_at :]}"


def decode_sql(text: bytes) -> str:
    """Return a statement's text. Raises ClickHouseError when it is not UTF-8."""
    try:
        return text.decode().strip()
    except UnicodeDecodeError:
        raise error(ErrorCode.SYNTAX_ERROR, "The query is not valid UTF-8") from None


def first_word(text: str) -> str:
    """Return the statement's first keyword in lower case; empty when there is none."""
    found = _FIRST_WORD.match(text)
    return found.group(1).lower() if found else ""


def is_insert(head: bytes) -> bool:
    """Return whether the statement that begins with `head` is an INSERT."""
    return first_word(head.decode(errors="replace")) == "insert"


def split_settings(insert: str) -> tuple[str, str]:
    """Split an INSERT without its format before its SETTINGS clause, which may be missing."""
    for found in _SETTINGS.finditer(insert):
        if found.group("word"):
            return insert[: found.start()], insert[found.start() :]
    return insert, ""


def split_insert(head: bytes) -> Statement | None:
    """Split an INSERT at the source of its rows; None while `head` does not reach it.

    An INSERT with rows, in a format or as VALUES, is streamed in; INSERT ... SELECT runs at once.
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
    """Return how to run a whole statement, other than a streamed INSERT."""
    formats = [
        found
        for found in _FORMAT.finditer(sql)
        if found.group(1) and _AFTER_FORMAT.fullmatch(sql, found.end())  # elsewhere it is a column's name
    ]
    if not formats:
        output = default_format or DEFAULT_FORMAT
        return Statement(_kind(sql, output, has_clause=False), sql, output)
    output = formats[-1].group(1)
    return Statement(_kind(sql, output, has_clause=True), sql, output, format_at=formats[-1].start())


def _kind(sql: str, output: str, *, has_clause: bool) -> StatementKind:
    if not is_select(sql):
        return "at_once"
    if output.lower() in STREAMABLE_OUTPUT:
        return "stream_out"
    return "pipe_out" if has_clause and output.lower() in PIPED_OUTPUT else "at_once"


def is_select(sql: str) -> bool:
    """Return whether the statement is a SELECT, which leaves nothing in its session."""
    return first_word(sql) in {"select", "with"}


def is_reading(sql: str) -> bool:
    """Return whether the statement only reads, so that it may be cancelled when its client disconnects."""
    return first_word(sql) in _READING
