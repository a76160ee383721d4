"""TCP ports of this machine: listening on them, free ones for the embedded parts, and whether something answers."""

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

# Below the range that the kernel takes outgoing connections' ports from (32768 on Linux), so a port found free
# is not taken by some client between the look and the start of the part.
_RANGE = range(20_000, 32_000)


ANY_ADDRESS = "::"
"""Listens on every address of the machine, of IPv6 and of IPv4."""
BACKLOG = 1_024
"""Connections that the kernel keeps until they are accepted."""
_WITHOUT_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def host_and_port(host: str, port: int) -> str:
    """An address as URLs and settings write it: [::1]:8080, 127.0.0.1:8080."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def listening_sockets(host: str, port: int, *, shared: bool = False) -> Iterator[list[socket.socket]]:
    """Sockets that listen on every address that `host` stands for, closed at the end. Raises OSError.

    `shared`: further processes may listen there as well; the kernel spreads connections over them.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(each) for each in _listeners(host, port, shared=shared)]


def _listeners(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    found: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                found.append(_listener(socket.socket(family, kind, protocol), address, host == ANY_ADDRESS, shared))
            except OSError as error:
                if error.errno not in _WITHOUT_IPV6:
                    raise
                missing = error  # such as ::1 for "localhost", on a machine without IPv6
        if not found and host == ANY_ADDRESS:
            return _listeners("0.0.0.0", port, shared=shared)  # noqa: S104
        if not found and missing is not None:
            raise missing
    except OSError:
        for listener in found:
            listener.close()
        raise
    return found


def _listener(unbound: socket.socket, address: object, both: bool, shared: bool) -> socket.socket:
    try:
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        unbound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        if unbound.family == socket.AF_INET6:
            unbound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not both))
        unbound.bind(address)  # type: ignore[arg-type]
        unbound.listen(BACKLOG)
    except OSError:
        unbound.close()
        raise
    return unbound


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something could listen on `port` now."""
    try:
        with listening_sockets(host, port):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port nobody listens on."""
    for port in random.SystemRandom().sample(_RANGE, 500):
        if is_free(port):
            return port
    raise OSError(f"no free port between {_RANGE.start} and {_RANGE.stop}")


# Loopback never goes through a proxy, whatever the environment names for other addresses.
_direct = build_opener(ProxyHandler({}))


def responds_to_http(url: str) -> bool:
    """Whether an HTTP GET of a loopback `url` succeeds now."""
    try:
        with _direct.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False
