"""Web servers of `tally up`: child processes that are ready once they answer HTTP."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from deploy.embedded.port_file import NoFreePort, ServiceName
from deploy.embedded.services import HOST
from deploy.embedded.stack import Stack
from runtime.errors import TallyError
from runtime.ports import reserved_port, responds_to_http
from runtime.process.children import Child, module_command
from runtime.settings import Settings

API_PORT, CONSOLE_PORT = 8080, 8090
PORTS_TRIED = 50
START_S = 120.0
"""Includes compiling after a change of sources, while workers compile as well."""
POLL_S = 0.05


class WebProcess(NamedTuple):
    """Web server that runs, and its address."""

    child: Child
    url: str

    def check(self) -> None:
        """Raise ChildFailed with the end of its log when it has ended."""
        if self.child.exit_code is not None:
            raise self.child.failure(self.child.describe_exit())


def choose_address(stack: Stack, name: ServiceName, wanted: int | None, default: int, reserving: ExitStack) -> str:
    """Return the address of a server: on the wanted port, that of the last start, or the first free one from there.

    The port is reserved until `reserving` ends: several stacks may start at the same time. Raises TallyError when none
    is free.
    """
    first = wanted or stack.ports.port_of(name) or default
    for _ in range(PORTS_TRIED):
        try:
            port = stack.ports.choose(name, range(first, min(first + PORTS_TRIED, 65_536)), wanted=first)
        except NoFreePort:
            break
        with suppress(OSError):  # another program was faster
            reserving.enter_context(reserved_port(port, HOST))
            return f"http://{HOST}:{port}"
    raise TallyError(f"no free port from {first} on for the {name}: choose one with --port")


async def start_api(stack: Stack, settings: Settings, url: str) -> WebProcess:
    """Start the API, and wait until it answers. Raises TallyError."""
    return await _start(stack, "api", url, ["tally.serve", "all"], settings.as_environment(), "/v1/health")


async def start_console(stack: Stack, settings: Settings, url: str, api_url: str) -> WebProcess:
    """Start the console of an API, and wait until it answers. Raises TallyError.

    Its secret is derived from the key of the data directory, so that sessions outlive a restart.
    """
    key = settings.api_key.get_secret_value()
    environment = {
        "TALLY_CONSOLE_API": api_url,
        "TALLY_CONSOLE_DOCS": f"{api_url}/docs",
        "TALLY_CONSOLE_SECRETS": hashlib.sha256(f"console {key}".encode()).hexdigest(),
    }
    return await _start(stack, "console", url, ["console"], environment, "/health")


async def _start(
    stack: Stack, name: str, url: str, module: list[str], environment: Mapping[str, str], health: str
) -> WebProcess:
    port = url.rpartition(":")[2]
    command = module_command(*module, "--host", HOST, "--port", port)
    child = stack.children.start(name, command, log_path=stack.log_dir / f"{name}.log", environment=environment)
    deadline = time.monotonic() + START_S
    while not await asyncio.to_thread(responds_to_http, f"{url}{health}"):
        if child.exit_code is not None:
            raise child.failure(f"{child.describe_exit()} while starting")
        if time.monotonic() > deadline:
            raise child.failure(f"did not answer within {START_S:.0f} s")
        await asyncio.sleep(POLL_S)
    return WebProcess(child, url)
