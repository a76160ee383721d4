"""Restrictions of statements beyond the grants of their user's role.

The engine is made for a personal machine: some access to files, other machines and Python objects needs no right. It is
found in the engine's canonical text of the statement (`formatQuery`). That has a single statement without comments,
heredocs and escaped names, so no unusual syntax can hide such access.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from deploy.embedded.clickhouse_http.users import User

READING = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN", "EXISTS"})
WRITING = frozenset(
    {"INSERT", "CREATE", "ALTER", "DROP", "UNDROP", "TRUNCATE", "RENAME", "EXCHANGE", "DELETE", "UPDATE"}
    | {"OPTIMIZE", "CHECK", "ATTACH", "DETACH", "KILL"}
)
BACKUPS = frozenset({"BACKUP", "RESTORE"})

TABLE_FUNCTIONS = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generate_series", "generateseries", "generaterandom"}
    | {"values", "sqlstandardvalues", "null", "format", "view"}
)
"""Table functions, in lower case, that make rows from their arguments only. All others are refused."""

REFUSED_FUNCTIONS = frozenset(
    {"file"}
    | {f"{prefix}{name}" for prefix in ("ai", "AI") for name in ("Generate", "Extract", "Classify", "Translate")}
    | {f"{prefix}{name}" for prefix in ("ai", "AI") for name in ("Filter", "Redact", "Embed", "Similarity")}
)
"""Functions that read files or call other machines. The name is refused anywhere: APPLY and arrayMap take names."""

ENGINES = re.compile(
    r"(Replacing|Summing|Aggregating|Collapsing|VersionedCollapsing|Coalescing|Graphite)?MergeTree"
    r"|Memory|Null|Log|TinyLog|StripeLog|View|MaterializedView|Set|Join|Buffer|Merge|Atomic"
)

SYSTEM_TABLES = frozenset(
    {"one", "numbers", "zeros", "databases", "tables", "columns", "settings", "functions", "formats", "keywords"}
    | {"table_engines", "table_functions", "data_type_families", "collations", "time_zones", "build_options"}
    | {"parts", "licenses", "contributors", "current_roles", "enabled_roles"}
)
"""Tables of the database `system` without data of other users, unlike `processes`, which shows their statements."""

INFILE = "rows"
"""Name of a streamed INSERT's file while its statement is checked."""

_TOKEN = re.compile(
    r"""(?P<string>'(?:[^'\\]|\\.)*')|`(?P<quoted>(?:[^`\\]|\\.)*)`|(?P<word>[A-Za-z_]\w*)|(?P<other>[^\s\w])|\d\w*|\s+""",
    re.DOTALL,
)


class StatementNotAllowed(Exception):
    """Statement that may not run; the message names the part that is refused."""


class _Token(NamedTuple):
    text: str
    kind: str
    """One of string, quoted, word and other."""

    @property
    def is_name(self) -> bool:
        return self.kind in {"word", "quoted"}


class StatementPolicy:
    """Checker of canonical statements of one engine."""

    def __init__(self, table_functions: Iterable[str]) -> None:
        """Take the names of all table functions of the engine."""
        self._refused_calls = {name.lower() for name in table_functions} - TABLE_FUNCTIONS | {"disk"}

    def check(self, canonical: str, user: User, *, streamed: bool = False) -> bool:
        """Return whether the statement needs the right to backup files. Raises StatementNotAllowed.

        A `streamed` statement is an INSERT made by the front, with its rows in the file INFILE.
        """
        tokens = _tokens(canonical)
        first = next((token.text for token in tokens if token.text != "("), "")
        is_backup = first in BACKUPS
        if first not in READING and (user.only_reads or first not in WRITING | BACKUPS):
            raise StatementNotAllowed(f"{first} statements are not for the user {user.name}")
        self._check_files(tokens, 1 if streamed else 0)
        self._check_calls(tokens, is_backup=is_backup)
        if first == "INSERT" and not streamed and _has(tokens, "FORMAT"):
            raise StatementNotAllowed("rows must follow an INSERT directly, in one format")
        if first in {"CREATE", "ATTACH"}:
            _check_engines(tokens)
        if user.only_reads:
            _check_reading(tokens)
        return is_backup

    def _check_files(self, tokens: list[_Token], expected_infiles: int) -> None:
        words = [token.text if token.kind == "word" else "" for token in tokens]
        pairs = list(pairwise(words))
        if ("INTO", "OUTFILE") in pairs:
            raise StatementNotAllowed("INTO OUTFILE writes a file")
        infiles = [at for at, pair in enumerate(pairs) if pair == ("FROM", "INFILE")]
        if len(infiles) != expected_infiles or any(tokens[at + 2].text != f"'{INFILE}'" for at in infiles):
            raise StatementNotAllowed("FROM INFILE reads a file")
        if ("PARALLEL", "WITH") in pairs:
            raise StatementNotAllowed("PARALLEL WITH is several statements")

    def _check_calls(self, tokens: list[_Token], *, is_backup: bool) -> None:
        for token, following in zip(tokens, [*tokens[1:], _Token("", "other")], strict=True):
            if not token.is_name:
                continue
            if token.text in REFUSED_FUNCTIONS:
                raise StatementNotAllowed(f"the function {token.text} reaches files or other machines")
            if following != _Token("(", "other"):
                continue
            if is_backup and token.text != "File":
                raise StatementNotAllowed(f"a backup goes to File('a plain name'), not to {token.text}")
            if not is_backup and token.text.lower() in self._refused_calls:
                raise StatementNotAllowed(
                    f"{token.text} reaches files, other machines or more than the tables that it names"
                )


def _check_engines(tokens: list[_Token]) -> None:
    for word, equals, name in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if word == _Token("ENGINE", "word") and equals.text == "=" and not ENGINES.fullmatch(name.text):
            raise StatementNotAllowed(f"the engine {name.text} reaches files or other machines")


def _check_reading(tokens: list[_Token]) -> None:
    """Check a read-only user's statement, which must not show other users' statements with their keys and data."""
    if [token.text for token in tokens[:2]] == ["SHOW", "PROCESSLIST"]:
        raise StatementNotAllowed("SHOW PROCESSLIST shows other people's statements")
    ends = [*tokens[1:], _Token("", "other"), _Token("", "other")]
    for at, token in enumerate(tokens):
        if token.kind == "word" and token.text == "Identifier":
            raise StatementNotAllowed("a parameter of the type Identifier may name any table: write the name")
        if token.is_name and token.text == "system":
            dot, table = ends[at], ends[at + 1]
            if dot.text != "." or table.text not in SYSTEM_TABLES:
                raise StatementNotAllowed(f"system.{table.text} may show other people's statements")


def _has(tokens: list[_Token], word: str) -> bool:
    """Return whether a keyword occurs, other than as a function call."""
    return any(token == _Token(word, "word") and following.is_name for token, following in pairwise(tokens))


def _tokens(canonical: str) -> list[_Token]:
    found = []
    at = 0
    while at < len(canonical):
        match = _TOKEN.match(canonical, at)
        if match is None:
            raise StatementNotAllowed(f"the statement cannot be read at {canonical[at : at + 20]!r}")
        if kind := match.lastgroup:
            found.append(_Token(match[kind], kind))
        at = match.end()
    return found
