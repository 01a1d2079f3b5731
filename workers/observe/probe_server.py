"""A worker's HTTP endpoints, served by their own threads: they answer while the loop is blocked.

``/health/live``   200, or 503 and why this process should be restarted
``/health/ready``  200, or 503 and why no execution begins here at present
``/health``        the health report as JSON; 503 while it is unhealthy
``/metrics``       for Prometheus

It is the standard library's server, as in prometheus_client: aiohttp.web would cost 11 MiB of memory in a worker whose
programs call no model, and 2 MiB in the others. A request is limited in size and time, and so is the number of clients.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dspex.operations.health.check_groups import HealthCheck
from dspex.operations.health.conditions import Condition
from dspex.settings import Settings
from workers.observe.health_check import health_check
from workers.observe.metrics import QUEUE, REGISTRY
from workers.observe.probes import Probes
from workers.process.fleet_pipe import place

__all__ = ["Answer", "ProbeServer", "RouteServer", "Routes"]

#: A request that has not arrived completely after this time is dropped.
REQUEST_SECONDS = 5.0
#: The most that a request, its headers included, may have. Probes and Prometheus send some hundred bytes.
REQUEST_BYTES = 16 * 1024
#: Further clients at the same time are dropped.
MOST_CLIENTS = 32
#: While another process has the port, most likely the one that this one replaces.
RETRY_SECONDS = 0.5
#: How soon the port is released.
STOP_SECONDS = 0.2

log = logging.getLogger("dspex.workers")

#: Status, content type, body.
Answer = tuple[int, str, bytes]
Routes = Mapping[str, Callable[[], Answer]]


class ProbeServer:
    """A service that serves the endpoints at the port of the settings; without a port it serves nothing.

    In a fleet the process at place 0 has that port, the one at place 1 the next, and so on. A port that is in use is
    tried again.
    """

    def __init__(self, settings: Settings, probes: Probes) -> None:
        self._address = None if settings.http_port is None else (settings.http_address, settings.http_port + place())
        check = health_check(settings)
        self._routes: Routes = {
            "/health/live": lambda: _probe(probes.why_not_live()),
            "/health/ready": lambda: _probe(probes.why_not_ready()),
            "/health": lambda: _report(check),
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(REGISTRY)),
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dspex-http", daemon=True)

    def start(self) -> None:
        if self._address is None:
            return
        QUEUE.wanted = True
        self._thread.start()

    def stop(self) -> None:
        """Release the port."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=REQUEST_SECONDS)

    def _serve(self) -> None:
        assert self._address is not None
        server = self._bind(self._address)
        if server is None:
            return
        log.info("health and metrics at http://%s:%s", *self._address)
        with server:
            while not self._stop.is_set():
                server.handle_request()

    def _bind(self, address: tuple[str, int]) -> RouteServer | None:
        """The server on its port; None when it is stopped before the port is free."""
        logged = False
        while not self._stop.is_set():
            try:
                return RouteServer(address, self._routes)
            except OSError as error:
                if not logged:
                    log.warning("cannot listen at %s:%s, trying again: %s", *address, error.strerror or error)
                logged = True
                self._stop.wait(RETRY_SECONDS)
        return None


class RouteServer(ThreadingHTTPServer):
    """Answers GET and HEAD of fixed paths, each client in its own thread."""

    daemon_threads = True
    timeout = STOP_SECONDS
    request_queue_size = MOST_CLIENTS
    # A port in use is not taken over, and one that this process has just released is free at once.
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        self._clients = threading.Semaphore(MOST_CLIENTS)
        super().__init__(address, partial(_Handler, routes))

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._clients.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._clients.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a client that goes away, or sends too much, at debug level only."""
        log.debug("answering %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS
    server_version = "dspex"
    sys_version = ""

    def __init__(self, routes: Routes, *args: Any) -> None:
        self._routes = routes
        super().__init__(*args)

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_RequestBytes(self.connection))

    def do_GET(self) -> None:
        route = self._routes.get(self.path.partition("?")[0])
        status, kind, body = route() if route else _text(404, "there are: " + " ".join(self._routes))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes come every few seconds."""


class _RequestBytes(io.RawIOBase):
    """The bytes of one request, within its limits. http.server itself limits each line and each read, not the whole."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = REQUEST_BYTES
        self._deadline = time.monotonic() + REQUEST_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read from the client. Raises TimeoutError, and LineTooLong, which http.server answers with 431."""
        if self._left == 0:
            raise LineTooLong("request")
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._connection.settimeout(seconds)
        count = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._connection.settimeout(REQUEST_SECONDS)  # for the answer
        self._left -= count
        return count


def _probe(why_not: str | None) -> Answer:
    return _text(200, "ok") if why_not is None else _text(503, why_not)


def _report(check: HealthCheck) -> Answer:
    report = check.report()
    status = 503 if report.overall is Condition.UNHEALTHY else 200
    return status, "application/json", json.dumps(report.as_dict(), indent=1).encode()


def _text(status: int, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
