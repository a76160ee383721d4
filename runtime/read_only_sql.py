"""Results of read-only statements in any of ClickHouse's formats, as bytes, block by block."""

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote, urlencode

import urllib3
from urllib3.exceptions import HTTPError

from runtime.clickhouse import parse_url, port_of
from runtime.errors import Fatal, SettingsError, StatementRefused, Unavailable
from runtime.faults.clickhouse import CLICKHOUSE_LOGIN, CLICKHOUSE_READONLY
from runtime.faults.network import network_reason, untrusted
from runtime.settings import Settings
from runtime.text import mask_secrets
from runtime.tls import tls_context

MAX_STATEMENT_BYTES = 64 * 1024
"""Largest statement with its parameters: it is sent in a URL, which servers bound to 1 MiB."""
BLOCK_BYTES = 64 * 1024
ERROR_BYTES = 16 * 1024
"""Largest error text at the end of a result; that many bytes are held back until the end is known."""
ERROR_CHARACTERS = 1_000

READING = ("SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN", "EXISTS")
"""First words of statements that read."""

_PREFIX = re.compile(r"^.*?Code: (\d+)\. (?:DB::)?\w*Exception: ", re.DOTALL)
_VERSION = re.compile(r"\s*\(version [^)]*\)?[^)]*\)\s*$")
_UNTAGGED_ERROR = re.compile(rb"(?:^|\n)(Code: \d+\. DB::Exception: [^\n]*\(version [^\n]*\))\s*$")
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})


class StreamedResult(NamedTuple):
    """Result that is read while it is used. Its blocks raise Unavailable and StatementRefused."""

    format: str
    """ClickHouse's format, which a FORMAT clause in the statement chooses before the caller does."""
    blocks: Iterator[bytes]


def analyst_setting(settings: Settings) -> str:
    """Return the name of the setting with the URL for people's statements."""
    return "TALLY_ANALYST" if settings.analyst.get_secret_value() else "TALLY_CLICKHOUSE"


@contextmanager
def run_read_only(
    settings: Settings, sql: str, output_format: str, parameters: Mapping[str, str]
) -> Iterator[StreamedResult]:
    """Run a statement that only reads, with bound parameters. Leaving the block early closes the connection.

    It is sent by GET, which ClickHouse runs as read-only (readonly = 2) for users who may write. Raises
    StatementRefused for an error of the statement, Fatal for credentials, Unavailable for the network.
    """
    setting = analyst_setting(settings)
    url = parse_url(settings.analyst if setting == "TALLY_ANALYST" else settings.clickhouse, setting)
    user, password = unquote(url.username or "default"), unquote(url.password or "")
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    bound = {f"param_{name}": value.translate(_ESCAPED) for name, value in parameters.items()}
    if sum(len(text.encode(errors="surrogatepass")) for text in (sql, *bound, *bound.values())) > MAX_STATEMENT_BYTES:
        raise StatementRefused(0, f"the statement and its parameters have more than {MAX_STATEMENT_BYTES:,} bytes")
    query = urlencode({"database": settings.database, "default_format": output_format, **bound, "query": sql})
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    timeout = urllib3.Timeout(settings.connect_timeout_ms / 1000, settings.query_timeout_ms / 1000)
    trust = tls_context(settings) if url.scheme == "https" else None
    with urllib3.PoolManager(retries=False, ssl_context=trust) as sockets, _network_errors(setting):
        response = sockets.request(
            "GET",
            f"{url.scheme}://{host}:{port_of(url)}{url.path or '/'}?{query}",
            headers={"Authorization": f"Basic {credentials}"},
            timeout=timeout,
            preload_content=False,
            redirect=False,
        )
        try:
            if response.status != HTTPStatus.OK or "X-ClickHouse-Exception-Code" in response.headers:
                raise _refusal(response.read(ERROR_BYTES), response.status, setting)
            format_ = response.headers.get("X-ClickHouse-Format", output_format)
            yield StreamedResult(format_, _blocks(response, setting))
        finally:
            response.close()


@contextmanager
def _network_errors(setting: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        if why := untrusted(error):
            raise Fatal(f"ClickHouse's certificate is not trusted (TALLY_TLS_CA_FILE): {why}") from error
        if isinstance(error, urllib3.exceptions.TimeoutError) and not network_reason(error):
            limit = "TALLY_CONNECT_TIMEOUT_MS, TALLY_QUERY_TIMEOUT_MS"
            raise Unavailable(f"ClickHouse ({setting}) did not answer in time ({limit})") from error
        if isinstance(error, urllib3.exceptions.LocationParseError):
            raise SettingsError(f"{setting}: the address cannot be parsed") from error
        why = network_reason(error) or "the connection was closed"
        raise Unavailable(f"ClickHouse ({setting}) does not answer: {why}") from error


def _blocks(response: urllib3.BaseHTTPResponse, setting: str) -> Iterator[bytes]:
    """Yield the result, and raise the error that ends it: the status was sent before the error occurred."""
    tag, held = response.headers.get("X-ClickHouse-Exception-Tag", ""), b""
    try:
        for block in response.stream(BLOCK_BYTES):
            held += block
            if len(held) >= ERROR_BYTES + BLOCK_BYTES:
                yield held[:-ERROR_BYTES]
                held = held[-ERROR_BYTES:]
    except HTTPError as error:
        broken: HTTPError | None = error
    else:
        broken = None
    rows, failed = _split_error(held, tag)
    yield rows
    if failed:
        raise _refusal(failed, HTTPStatus.OK, setting)
    if broken is not None:
        raise broken


def _split_error(held: bytes, tag: str) -> tuple[bytes, bytes]:
    """Split the end of a result into rows and the text of an error; the text is empty for a complete result.

    ClickHouse 25.11 and later mark it by `__exception__` and a tag that no row can have; earlier ones do not mark it.
    """
    if tag:
        rows, marked, rest = held.partition(f"\r\n__exception__\r\n{tag}\r\n".encode())
        return rows, rest.rpartition(f" {tag}".encode())[0].rpartition(b"\n")[0] if marked else b""
    found = _UNTAGGED_ERROR.search(held)
    return (held[: found.start(1)], found.group(1)) if found else (held, b"")


def _refusal(body: bytes, status: int, setting: str) -> StatementRefused | Fatal | Unavailable:
    """Return the error of a response as one line, without the server's version and secrets."""
    text = body.decode(errors="replace").strip()
    found = _PREFIX.match(text)
    if found is None:
        return Unavailable(f"ClickHouse ({setting}) does not answer: HTTP status {status}")
    code = int(found.group(1))
    if code in CLICKHOUSE_LOGIN:
        return Fatal(f"ClickHouse refused the credentials in {setting}")
    if code == CLICKHOUSE_READONLY:
        return StatementRefused(code, f"only statements that read are run: {', '.join(READING)}")
    words = " ".join(_VERSION.sub("", text[found.end() :]).split())
    return StatementRefused(code, f"ClickHouse refused the statement: {mask_secrets(words)[:ERROR_CHARACTERS]}")
