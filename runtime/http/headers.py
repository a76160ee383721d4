"""Headers of a request, read from the ASGI scope once."""

from collections.abc import Mapping

from starlette.types import Scope

BODY_RECEIVED = "tally.body_received"
"""Scope key that is present once the whole body has arrived."""
_HEADERS = "tally.request_headers"


def headers_of(scope: Scope) -> Mapping[str, str]:
    """Return the headers of a request by lower-case name; of a repeated one, the first value."""
    found: Mapping[str, str] | None = scope.get(_HEADERS)
    if found is None:
        given = reversed(list(scope["headers"]))  # the first of a repeated header is set last, and stays
        found = scope[_HEADERS] = {name.decode("latin-1"): value.decode("latin-1") for name, value in given}
    return found


def repeated_header(scope: Scope, name: str) -> list[str]:
    """Return all values of a header, in the order of the request."""
    if name not in headers_of(scope):
        return []
    return [value.decode("latin-1") for each, value in scope["headers"] if each == name.encode()]
