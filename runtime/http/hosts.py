"""Check of the Host header against DNS rebinding: a page whose name resolves to this machine sends its own name."""

import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.http import paths
from runtime.http.errors import ApiError
from runtime.http.headers import headers_of

MAX_SHOWN_CHARACTERS = 80
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port; an IPv6 address keeps its brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[: name.find("]") + 1]
    return name.partition(":")[0]


def is_loopback(address: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def allowed_names(chosen: Collection[str], listening: str) -> Collection[str]:
    """Return the host names that an API accepts: the chosen ones, else local names on loopback. Empty: any."""
    if chosen or not is_loopback(listening):
        return chosen
    return LOCAL_NAMES | {f"[{listening}]" if ":" in listening else listening}


class AllowedHosts:
    """Middleware that refuses requests for other hosts, except probes, which name a container's address."""

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it with 400."""
        if scope["type"] == "http" and scope["path"] not in (paths.HEALTH, paths.READY):
            header = headers_of(scope).get("host", "")
            if host_name(header) not in self._names:
                shown = header[:MAX_SHOWN_CHARACTERS].encode("unicode_escape").decode()
                message = f"requests for the host '{shown}' are not served here (TALLY_HTTP_HOSTS)"
                await ApiError(400, message, code="unknown_host").answer().send(send)
                return
        await self._app(scope, receive, send)
