"""Admission control: scope and rate limit of a caller."""

from collections.abc import Awaitable, Callable

from fastapi import Request

from runtime.http.access import Caller
from runtime.http.keys import Scope
from runtime.http.middleware import EXTRA_HEADERS
from runtime.http.service import AppContext


def require_scope(base: AppContext, scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """Return a dependency that authenticates a caller with this scope. It raises ApiError 401, 403 or 429."""

    async def caller(request: Request) -> Caller:
        return await apply_rate_limit(base, request, base.access.caller(request, scope))

    return caller


async def apply_rate_limit(base: AppContext, request: Request, caller: Caller) -> Caller:
    """Spend a token of the caller's rate limit. Raises ApiError 429."""
    request.scope.setdefault(EXTRA_HEADERS, {}).update(await base.limits.spend(caller))
    return caller
