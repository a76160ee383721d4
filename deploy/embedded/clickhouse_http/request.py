"""What a client asked for, read from the request line and headers."""

import base64
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qsl

from deploy.embedded.clickhouse_http.errors import (
    AUTHENTICATION_FAILED,
    BAD_ARGUMENTS,
    NOT_IMPLEMENTED,
    error,
)

# Parameters that steer the transport; everything else in the URL is a setting, as in ClickHouse.
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
    """One request, apart from its body. `settings` and `params` are as the client wrote them."""

    query: str
    query_id: str
    database: str | None
    default_format: str | None
    settings: dict[str, str]
    params: dict[str, str]
    content_encoding: str
    accept_encoding: str
    only_reads: bool
    """A GET: following a link must not change data."""
    form_type: str
    """The Content-Type of a body that is a form, else empty."""

    def with_fields(self, fields: Mapping[str, str]) -> Self:
        """The same request with a form's fields in the place of URL parameters."""
        params = {name.removeprefix(_PARAM): value for name, value in fields.items() if name.startswith(_PARAM)}
        return self._replace(query=self.query or fields.get("query", ""), params={**self.params, **params})


class User(NamedTuple):
    """The one user of the engine. By itself without a password: then it may listen on the loopback address only."""

    name: str = "default"
    password: str = ""


def read_request(scope: Mapping[str, Any], user: User) -> Request:
    """Read an ASGI scope of what `user` may ask. Raises ClickHouseError for what the front does not speak."""
    if scope["method"] not in {"GET", "HEAD", "POST"}:
        raise error(NOT_IMPLEMENTED, f"Method {scope['method'][:20]}; spoken are GET, HEAD and POST")
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    url = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    _check_user(user, url, headers)
    for name, what in _REFUSED.items():
        if url.get(name, "0") not in {"", "0"}:
            raise error(NOT_IMPLEMENTED, f"Parameter {name} asks for {what}")
    content_type = headers.get("content-type", "")
    settings: dict[str, str] = {}
    params: dict[str, str] = {}
    for name, value in url.items():
        if name.startswith(_PARAM):
            params[name.removeprefix(_PARAM)] = value
        elif name not in _TRANSPORT and name not in _REFUSED:
            if not _SETTING_NAME.fullmatch(name):
                raise error(BAD_ARGUMENTS, f"Not the name of a setting: {name[:80]!r}")
            settings[name] = value
    wants_compression = url.get("enable_http_compression", "0") == "1"
    return Request(
        query=url.get("query", ""),
        query_id=url.get("query_id") or str(uuid.uuid4()),
        database=url.get("database") or headers.get("x-clickhouse-database"),
        default_format=url.get("default_format") or headers.get("x-clickhouse-format"),
        settings=settings,
        params=params,
        content_encoding=headers.get("content-encoding", "").strip().lower(),
        accept_encoding=headers.get("accept-encoding", "") if wants_compression else "",
        only_reads=scope["method"] != "POST",
        form_type=content_type if content_type.startswith("multipart/") else "",
    )


def _check_user(known: User, url: Mapping[str, str], headers: Mapping[str, str]) -> None:
    user = url.get("user") or headers.get("x-clickhouse-user") or known.name
    password = url.get("password") or headers.get("x-clickhouse-key") or ""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            user = ""
    elif scheme:
        user = ""
    if user != known.name or not secrets.compare_digest(password.encode(), known.password.encode()):
        raise error(
            AUTHENTICATION_FAILED, f"{known.name}: Authentication failed: password is incorrect, or no such user"
        )
