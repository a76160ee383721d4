"""TCP ports of this machine: free ones for the embedded parts, and whether something answers on one."""

import random
import socket
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

# Below the range that the kernel takes outgoing connections' ports from (32768 on Linux), so a port found free
# is not taken by some client between the look and the start of the part.
_RANGE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody listens on."""
    for port in random.SystemRandom().sample(_RANGE, 500):
        if is_free(port):
            return port
    raise OSError(f"no free port between {_RANGE.start} and {_RANGE.stop}")


# Loopback never goes through a proxy, whatever the environment names for other addresses.
_direct = build_opener(ProxyHandler({}))


def http_answers(url: str) -> bool:
    """Whether an HTTP GET of a loopback `url` succeeds now."""
    try:
        with _direct.open(url, timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False
