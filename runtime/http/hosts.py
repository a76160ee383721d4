"""Host names in requests. A page whose name leads to this machine (DNS rebinding) still sends its own name."""

import ipaddress
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.http import paths
from runtime.http.errors import ApiError

LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


def host_name(header: str) -> str:
    """The name in a Host header, without its port; an IPv6 address keeps its brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[: name.find("]") + 1]
    return name.partition(":")[0]


def is_loopback(address: str) -> bool:
    """Whether only programs of this machine reach what listens at an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def allowed_names(chosen: Collection[str], listening: str) -> Collection[str]:
    """The names that an API answers to: those that were chosen, else by where it listens; empty: any."""
    if chosen or not is_loopback(listening):
        return chosen
    return LOCAL_NAMES | {f"[{listening}]" if ":" in listening else listening}


class AllowedHosts:
    """Refuses requests that name another host. Probes are let through: they name a container's address."""

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        self._app = app
        self._names = frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] == "http" and scope["path"] not in (paths.HEALTH, paths.READY):
            header = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
            if host_name(header) not in self._names:
                shown = header[:80].encode("unicode_escape").decode()
                message = f"no requests for the host '{shown}' are answered here (TALLY_HTTP_HOSTS)"
                await ApiError(400, message, code="unknown_host").response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
