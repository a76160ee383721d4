"""Statements that people write, run as the analyst, who can only read."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import SplitResult

from clickhouse_connect.driver.exceptions import ClickHouseError

from runtime.clickhouse import endpoint_of, parse_url
from runtime.clickhouse_stream import StreamedResult, streamed_read_only
from runtime.errors import Fatal, StatementRefused, TallyError, Unavailable
from runtime.faults.clickhouse import CLICKHOUSE_LOGIN, CLICKHOUSE_READONLY, error_code
from runtime.faults.network import network_reason, untrusted
from runtime.settings import Settings
from runtime.text import mask_secrets

MAX_STATEMENT_BYTES = 64 * 1024
"""Largest statement with its parameters: it is sent in a URL."""
ERROR_CHARACTERS = 1_000
READING = ("SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN", "EXISTS")
"""First words of statements that read."""

_PREFIX = re.compile(r"^.*?Code: \d+\. (?:DB::)?\w*Exception: ", re.DOTALL)
_WITHOUT_PARAMETERS = re.compile(r"parameterized view|Empty list of columns in projection", re.IGNORECASE)
"""Errors of a view with parameters that is read, or described, like a table."""
_VIEW_HINT = (
    "results, executions and report_... are views with parameters: SELECT * FROM executions(namespace = 'default', "
    "since = now() - INTERVAL 1 DAY, until = now())"
)
_VERSION = re.compile(r"\s*\(version [^)]*\)?[^)]*\)\s*$")


def analyst_url(settings: Settings) -> tuple[str, SplitResult]:
    """Return the URL for people's statements, after the name of its setting. Raises SettingsError."""
    if settings.analyst.get_secret_value():
        return "TALLY_ANALYST", parse_url(settings.analyst, "TALLY_ANALYST")
    return "TALLY_CLICKHOUSE", parse_url(settings.need("clickhouse").clickhouse, "TALLY_CLICKHOUSE")


@asynccontextmanager
async def analyst_result(
    settings: Settings, sql: str, parameters: Mapping[str, str], default_format: str
) -> AsyncIterator[StreamedResult]:
    """Run a statement that only reads, with bound parameters, and yield its result.

    Raises StatementRefused for an error of the statement, Fatal for credentials, Unavailable for the network, each
    also between pieces.
    """
    _check_size(sql, parameters)
    setting, url = analyst_url(settings)
    try:
        async with streamed_read_only(endpoint_of(settings, url), sql, parameters, default_format) as result:
            yield result
    except ClickHouseError as error:
        raise _fault(error, setting) from error


def _check_size(sql: str, parameters: Mapping[str, str]) -> None:
    try:
        size = sum(len(text.encode()) for text in (sql, *parameters, *parameters.values()))
    except UnicodeEncodeError:
        raise StatementRefused(0, "the statement or one of its parameters is not UTF-8") from None
    if size > MAX_STATEMENT_BYTES:
        raise StatementRefused(0, f"the statement and its parameters have more than {MAX_STATEMENT_BYTES:,} bytes")


def _fault(error: ClickHouseError, setting: str) -> TallyError:
    """Translate an error of ClickHouse to one line, without the server's version and secrets."""
    code, text = error_code(error), str(error)
    if why := untrusted(error):
        return Fatal(f"ClickHouse's certificate is not trusted (TALLY_TLS_CA_FILE): {why}")
    if code in CLICKHOUSE_LOGIN:
        return Fatal(f"ClickHouse refused the credentials in {setting}")
    if code == CLICKHOUSE_READONLY:
        return StatementRefused(code, f"only statements that read are run: {', '.join(READING)}")
    why = network_reason(error)
    if not why and isinstance(error.__cause__, TimeoutError):
        limits = "TALLY_CONNECT_TIMEOUT_MS, TALLY_QUERY_TIMEOUT_MS"
        return Unavailable(f"ClickHouse ({setting}) did not answer in time ({limits})")
    if not code:
        return Unavailable(f"ClickHouse ({setting}) does not answer: {why or _one_line(text)}")
    refusal = f"ClickHouse refused the statement: {_one_line(_PREFIX.sub('', text))}"
    return StatementRefused(code, f"{refusal}. {_VIEW_HINT}" if _WITHOUT_PARAMETERS.search(text) else refusal)


def _one_line(text: str) -> str:
    return mask_secrets(" ".join(_VERSION.sub("", text).split()))[:ERROR_CHARACTERS]
