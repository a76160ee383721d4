"""A port for operators: `/metrics`, and whether the process lives and is ready."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Event, Thread
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from runtime.errors import SettingsError
from runtime.ports import host_and_port, listening_sockets
from runtime.settings import Settings

LOOP_TIMEOUT_S = 10.0
"""An event loop that does not turn for so long is stuck."""
REQUEST_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
"""Each is a thread. Further ones are closed."""

log = logging.getLogger("tally.metrics")


@contextmanager
def serve_metrics(settings: Settings, why_not_ready: Callable[[], str]) -> Iterator[None]:
    """Answer on TALLY_METRICS_PORT, in threads, until left; with port 0 not at all. Call it from the event loop.

    `why_not_ready` gives the reason that `/v1/ready` answers 503 with; empty: ready.
    """
    if not settings.metrics_port:
        yield
        return
    loop = asyncio.get_running_loop()

    def why_not_alive() -> str:
        turned = Event()
        try:
            loop.call_soon_threadsafe(turned.set)
        except RuntimeError:
            return "the event loop is closed"
        return "" if turned.wait(LOOP_TIMEOUT_S) else "the event loop hangs"

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest())
            elif path in checks:
                why = checks[path]()
                self._answer(503 if why else 200, "text/plain; charset=utf-8", f"{why or 'ok'}\n".encode())
            else:
                self._answer(404, "text/plain", b"/metrics, /v1/health, /v1/ready\n")

        do_HEAD = do_GET  # noqa: N815  (the name that the base class looks for)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing: it is asked every few seconds."""

    checks: dict[str, Callable[[], str]] = {"/v1/health": why_not_alive, "/v1/ready": why_not_ready}
    with ExitStack() as stack:
        try:
            sockets = stack.enter_context(listening_sockets(settings.metrics_host, settings.metrics_port))
        except OSError as error:
            where = host_and_port(settings.metrics_host, settings.metrics_port)
            raise SettingsError(f"cannot listen on {where} (TALLY_METRICS_HOST, TALLY_METRICS_PORT): {error}") from None
        for each in sockets:
            server = _Server(each, Handler)
            Thread(target=server.serve_forever, name="metrics", daemon=True).start()
            stack.callback(server.shutdown)
        yield


class _Server(ThreadingHTTPServer):
    """Answer on a listening socket, in at most this many threads."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._places = BoundedSemaphore(MAX_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        log.info("the connection of %s broke off", client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()
