"""Who asks: the key, and the namespace it may read. Every endpoint takes its namespace from here only."""

import hmac

from fastapi import Request

from readers.errors import forbidden, unauthorized
from runtime.settings import Settings


def namespace_of(request: Request, settings: Settings) -> str:
    """The namespace this request may read. Raises 401 without the key, 403 for another namespace."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise unauthorized("send your key as `Authorization: Bearer <key>`")
    # Compared as bytes: a header may hold what no ASCII string comparison takes.
    if not hmac.compare_digest(token.strip().encode(), settings.api_key.get_secret_value().encode()):
        raise unauthorized("the key is not known")
    named = request.headers.get("x-namespace")
    if named is None:
        return settings.api_namespaces[0]
    if named not in settings.api_namespaces:
        raise forbidden("the key is not bound to this namespace")
    return named
