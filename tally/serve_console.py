"""The web console in the foreground of a command."""

import os
from pathlib import Path

from console.server import PORT, configure_log, serve
from console.settings import ConsoleSettings, ConsoleSettingsError
from runtime.errors import SettingsError, TallyError
from runtime.ports import host_and_port, is_free
from runtime.settings import DEFAULT_DATA_DIR
from runtime.stack_file import StackFile


def serve_console(data_dir: Path | None, host: str, port: int | None) -> None:
    """Serve until SIGINT or SIGTERM. Without TALLY_CONSOLE_API, the API is that of the stack in the data directory.

    Raises SettingsError, and TallyError when the port is taken.
    """
    port = port or PORT
    folder = data_dir or Path(os.environ.get("TALLY_DATA_DIR") or DEFAULT_DATA_DIR)
    stack = StackFile.of_running_stack(folder)
    given = "TALLY_CONSOLE_API" in os.environ
    offered = {"api": stack.endpoints.api, "docs": f"{stack.endpoints.api}/docs"} if stack and not given else {}
    try:
        settings = ConsoleSettings.load(**offered)
    except ConsoleSettingsError as error:
        raise SettingsError(str(error)) from None
    if not is_free(port, host):
        raise TallyError(f"port {port} of {host} is taken: choose another one with --port")
    configure_log(settings)
    if not serve(settings, host, port):
        raise TallyError(f"the console could not start on {host_and_port(host, port)}; its log above says why")
