"""TCP ports of this machine: listening sockets, free ports for embedded services, and HTTP probes."""

import errno
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

# Below the kernel's range of outgoing ports (from 32768 on Linux), so no client takes a free port before its service
# starts.
_RANGE = range(20_000, 32_000)


ANY_ADDRESS = "::"
"""Host that stands for every IPv6 and IPv4 address of the machine."""
BACKLOG = 1_024
"""Maximum connections that the kernel queues until they are accepted."""
_WITHOUT_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def host_and_port(host: str, port: int) -> str:
    """Return an address as URLs and settings write it: [::1]:8080, 127.0.0.1:8080."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def listening_sockets(host: str, port: int, *, shared: bool = False) -> Iterator[list[socket.socket]]:
    """Open sockets that listen on every address of `host`, and close them at the end. Raises OSError.

    `shared`: other processes may listen there, too; the kernel distributes connections among them.
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


@contextmanager
def reserved_port(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    """Keep a port from other programs until the block ends; a server with a shared socket may listen on it meanwhile.

    Raises OSError when the port is taken.
    """
    with socket.socket() as holder:  # without SO_REUSEADDR, by which others could bind to a port that nobody listens on
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((host, port))  # without listening, so no connection arrives here
        yield


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether `port` is free to listen on."""
    try:
        with listening_sockets(host, port):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Return a free port. Raises OSError when none is found."""
    for port in random.SystemRandom().sample(_RANGE, 500):
        if is_free(port):
            return port
    raise OSError(f"no free port between {_RANGE.start} and {_RANGE.stop}")


# Loopback requests never use a proxy, whatever the environment sets.
_direct = build_opener(ProxyHandler({}))


def responds_to_http(url: str) -> bool:
    """Return whether an HTTP GET of a loopback `url` succeeds."""
    try:
        with _direct.open(url, timeout=2) as response:
            return bool(response.status == HTTPStatus.OK)
    except (OSError, HTTPException):
        return False
