"""Port for operators: `/metrics`, liveness and readiness."""

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
"""An event loop that runs no callback for this long is stuck."""
REQUEST_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
"""Maximum connections, a thread each. Further ones are closed."""

log = logging.getLogger("tally.metrics")


@contextmanager
def serve_metrics(settings: Settings, why_not_ready: Callable[[], str]) -> Iterator[None]:
    """Serve TALLY_METRICS_PORT from threads until the block ends; port 0 serves nothing. Call it from the event loop.

    `why_not_ready` returns the reason for which `/v1/ready` responds 503; empty: ready.
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

        do_HEAD = do_GET  # noqa: N815  (the name that the base class requires)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            """Log nothing: probes arrive every few seconds."""

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
    """Server on a listening socket, with at most MAX_CONNECTIONS threads."""

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
        log.info("metrics connection of %s failed", client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()
