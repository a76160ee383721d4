"""Admission: a caller with a scope, within its rate limit."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from runtime.http.access import Caller
from runtime.http.keys import Scope
from runtime.http.middleware import EXTRA_HEADERS
from runtime.http.service import AppContext


def require_scope(base: AppContext, scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency: the caller, who has this scope and has not asked too often. Raises 401, 403, 429."""

    async def caller(request: Request) -> Caller:
        return await apply_rate_limit(base, request, base.access.caller(request, scope))

    return caller


async def apply_rate_limit(base: AppContext, request: Request, caller: Caller) -> Caller:
    """Count a request of a known caller. Raises 429."""
    request.scope.setdefault(EXTRA_HEADERS, {}).update(await base.limits.spend(caller))
    return caller
