"""Request of a client, parsed from the request line and headers."""

import base64
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl

from deploy.embedded.clickhouse_http.errors import ErrorCode, error
from deploy.embedded.clickhouse_http.users import StatementCaller, User
from runtime.http.hosts import LOCAL_NAMES, host_name

# Parameters of the transport; all others in the URL are settings, as in ClickHouse.
_TRANSPORT = frozenset(
    {
        "query",
        "database",
        "default_format",
        "query_id",
        "user",
        "password",
        "quota_key",
        "session_id",
        "session_timeout",
        "session_check",
        "wait_end_of_query",
        "buffer_size",
        "client_protocol_version",
        "enable_http_compression",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
    }
)
_REFUSED = {
    "compress": "blocks in ClickHouse's own compressed form; ask for Accept-Encoding instead",
    "decompress": "blocks in ClickHouse's own compressed form; send a Content-Encoding instead",
    "stacktrace": "stack traces",
    "role": "roles",
}
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_PARAM = "param_"


class Request(NamedTuple):
    """Request without its body. `params` are unparsed."""

    query: str
    caller: StatementCaller
    default_format: str | None
    params: dict[str, str]
    content_encoding: str
    only_reads: bool
    """Whether it is a GET or HEAD: following a link must not change data."""
    whole_result: bool
    """Whether the response begins after the end of the statement, so that every error has a status of its own."""
    form_type: str
    """Content-Type of a form body, otherwise empty."""

    def with_fields(self, fields: Mapping[str, str]) -> Self:
        """Return the request with a form's fields in place of URL parameters."""
        params = {name.removeprefix(_PARAM): value for name, value in fields.items() if name.startswith(_PARAM)}
        return self._replace(query=self.query or fields.get("query", ""), params={**self.params, **params})


def read_request(scope: Mapping[str, Any], users: Mapping[str, User]) -> Request:
    """Parse an ASGI scope. Raises ClickHouseError for an unsupported request, and for an unknown user."""
    if scope["method"] not in {"GET", "HEAD", "POST"}:
        raise error(ErrorCode.NOT_IMPLEMENTED, f"Method {scope['method'][:20]}; supported are GET, HEAD and POST")
    headers = headers_of(scope)
    url = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    user = _user_of(users, url, headers)
    database = url.get("database") or headers.get("x-clickhouse-database")
    if user.only_reads and database == "system":
        raise error(ErrorCode.ACCESS_DENIED, f"{user.name}: The database system shows other people's statements")
    for name, what in _REFUSED.items():
        if url.get(name, "0") not in {"", "0"}:
            raise error(ErrorCode.NOT_IMPLEMENTED, f"Parameter {name} asks for {what}")
    content_type = headers.get("content-type", "")
    settings: dict[str, str] = {}
    params: dict[str, str] = {}
    for name, value in url.items():
        if name.startswith(_PARAM):
            params[name.removeprefix(_PARAM)] = value
        elif name not in _TRANSPORT and name not in _REFUSED:
            if not _SETTING_NAME.fullmatch(name):
                raise error(ErrorCode.BAD_ARGUMENTS, f"Not the name of a setting: {name[:80]!r}")
            settings[name] = value
    return Request(
        query=url.get("query", ""),
        caller=StatementCaller(user, url.get("query_id") or str(uuid.uuid4()), database, settings),
        default_format=url.get("default_format") or headers.get("x-clickhouse-format"),
        params=params,
        content_encoding=headers.get("content-encoding", "").strip().lower(),
        only_reads=scope["method"] != "POST",
        whole_result=url.get("wait_end_of_query", "0") not in {"", "0"},
        form_type=content_type if content_type.startswith("multipart/") else "",
    )


def headers_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def check_origin(headers: Mapping[str, str], *, only_local: bool) -> None:
    """Refuse requests of web pages, also those with DNS rebinding to this machine. Raises ClickHouseError.

    `only_local`: the front listens on the loopback address, so the Host header must name it.
    """
    host = headers.get("host", "")
    if only_local and host_name(host) not in LOCAL_NAMES:
        raise error(
            ErrorCode.ACCESS_DENIED, f"The Host header names {host[:80]!r}; it must name this machine: 127.0.0.1"
        )
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host}".lower():
        raise error(ErrorCode.ACCESS_DENIED, f"Pages of {origin[:80]!r} may not send requests here")


def _user_of(users: Mapping[str, User], url: Mapping[str, str], headers: Mapping[str, str]) -> User:
    name = url.get("user") or headers.get("x-clickhouse-user") or User().name
    password = url.get("password") or headers.get("x-clickhouse-key") or ""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            name = ""
    elif scheme:
        name = ""
    user = users.get(name)
    if user is None or not secrets.compare_digest(password.encode(), user.password.encode()):
        raise error(
            ErrorCode.AUTHENTICATION_FAILED,
            f"{name[:80]}: Authentication failed: password is incorrect, or no such user",
        )
    return user
